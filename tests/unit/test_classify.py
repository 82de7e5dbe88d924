"""From an exception to its category: reference cases, real clients' exceptions, look-alikes, and hostile ones."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import socket
import urllib.error
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import billiard.exceptions
import httpx
import kombu.exceptions
import pytest
import redis
import requests
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import classify as package_level_classify
from resilience.errors.classify import classify, retry_after_s, rule
from resilience.errors.taxonomy import CircuitOpenError, ErrorCategory, PermanentError, TransientError

C = ErrorCategory


def category(error: BaseException) -> ErrorCategory:
    return classify(error).category


def http_error(status: int, headers: dict[str, str] | None = None) -> httpx.HTTPStatusError:
    """What `response.raise_for_status()` raises, made by it."""
    request = httpx.Request("POST", "https://api.example/v1/chat")
    response = httpx.Response(status, request=request, headers=headers)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return caught.value


def look_alike(module: str, name: str, *bases: type, **attributes: Any) -> BaseException:
    """An exception as a library that is not installed would raise it."""
    cls = type(name, bases or (Exception,), {"__module__": module})
    error = cls("something went wrong")
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    assert isinstance(error, BaseException)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError("upstream"), C.TIMEOUT),
        (http_error(429), C.RATE_LIMIT),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), C.CONNECTION),
        (http_error(503), C.SERVER),
        (http_error(502), C.SERVER),
        (http_error(401), C.AUTH),
        (http_error(404), C.NOT_FOUND),
        (http_error(400), C.INVALID_REQUEST),
        (MemoryError(), C.RESOURCE),
        (KeyError("timeout"), C.PYTHON),
    ],
)
def test_the_ten_reference_cases(error: BaseException, expected: ErrorCategory) -> None:
    assert category(error) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, C.AUTH), (408, C.TIMEOUT), (422, C.INVALID_REQUEST), (500, C.SERVER), (504, C.TIMEOUT), (529, C.SERVER)],
)
def test_further_http_statuses(status: int, expected: ErrorCategory) -> None:
    assert category(http_error(status)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectTimeout("slow"), C.TIMEOUT),
        (httpx.ReadTimeout("slow"), C.TIMEOUT),
        (httpx.PoolTimeout("slow"), C.TIMEOUT),
        (httpx.ConnectError("refused"), C.CONNECTION),
        (httpx.ReadError("reset"), C.CONNECTION),
        (httpx.RemoteProtocolError("server disconnected"), C.COMMUNICATION),
        (httpx.DecodingError("gzip"), C.COMMUNICATION),
        (requests.exceptions.ReadTimeout("slow"), C.TIMEOUT),
        (requests.exceptions.ConnectionError("refused"), C.CONNECTION),
        (requests.exceptions.ChunkedEncodingError("cut"), C.COMMUNICATION),
        (redis.TimeoutError("slow"), C.TIMEOUT),
        (redis.ConnectionError("gone"), C.CONNECTION),
        (redis.exceptions.BusyLoadingError("loading"), C.CONNECTION),
        (redis.AuthenticationError("wrong password"), C.AUTH),
        (redis.exceptions.NoPermissionError("acl"), C.AUTH),
        (redis.exceptions.OutOfMemoryError("maxmemory"), C.RESOURCE),
        (kombu.exceptions.OperationalError("broker"), C.CONNECTION),
        (billiard.exceptions.SoftTimeLimitExceeded(), C.TIMEOUT),
        (billiard.exceptions.WorkerLostError("SIGKILL"), C.COMMUNICATION),
        (asyncio.TimeoutError(), C.TIMEOUT),
        (concurrent.futures.TimeoutError(), C.TIMEOUT),
        (socket.timeout("slow"), C.TIMEOUT),  # noqa: UP041  the alias is what old code raises
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), C.CONNECTION),
        (urllib.error.HTTPError("http://x", 503, "unavailable", Message(), None), C.SERVER),
        (OSError(errno.ENOSPC, "disk full"), C.RESOURCE),
        (OSError(errno.EMFILE, "too many open files"), C.RESOURCE),
        (OSError(errno.ETIMEDOUT, "late"), C.TIMEOUT),
        (FileNotFoundError(errno.ENOENT, "no such file"), C.PYTHON),
        (SystemError("interpreter"), C.SYSTEM),
        (CircuitOpenError("openai"), C.CONNECTION),
        (ZeroDivisionError("division by zero"), C.PYTHON),
    ],
)
def test_real_exceptions_of_clients_and_of_python(error: BaseException, expected: ErrorCategory) -> None:
    assert category(error) is expected


def _openai(name: str, *bases: type, **attributes: Any) -> BaseException:
    return look_alike("openai", name, *bases, **attributes)


def _client_error(status: int, code: str = "", headers: dict[str, str] | None = None) -> BaseException:
    response = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return look_alike("botocore.exceptions", "ClientError", response=response)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_openai("RateLimitError", status_code=429), C.RATE_LIMIT),
        (_openai("APITimeoutError", type("APIConnectionError", (Exception,), {"__module__": "openai"})), C.TIMEOUT),
        (_openai("APIConnectionError"), C.CONNECTION),
        (_openai("InternalServerError", status_code=500), C.SERVER),
        (_openai("BadRequestError", status_code=400), C.INVALID_REQUEST),
        (_openai("AuthenticationError", status_code=401), C.AUTH),
        (_client_error(503, "ServiceUnavailable"), C.SERVER),
        (_client_error(404, "NoSuchKey"), C.NOT_FOUND),
        (_client_error(400, "ThrottlingException"), C.RATE_LIMIT),
        (_client_error(400, "ProvisionedThroughputExceededException"), C.RATE_LIMIT),
        (_client_error(400, "ValidationException"), C.INVALID_REQUEST),
        (_client_error(400, "ExpiredToken"), C.AUTH),
        (look_alike("botocore.exceptions", "EndpointConnectionError"), C.CONNECTION),
        (
            look_alike("botocore.exceptions", "ClientError", response={"Error": None, "ResponseMetadata": None}),
            C.PYTHON,
        ),
        (look_alike("urllib3.exceptions", "NewConnectionError"), C.CONNECTION),
        (look_alike("aiohttp.client_exceptions", "ClientResponseError", status=502), C.SERVER),
        (look_alike("some.sdk", "ApiError", http_status=HTTPStatus.TOO_MANY_REQUESTS), C.RATE_LIMIT),
    ],
)
def test_look_alikes_of_libraries_that_are_not_imported(error: BaseException, expected: ErrorCategory) -> None:
    assert category(error) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("the request timed out", C.TIMEOUT),
        ("context deadline exceeded", C.TIMEOUT),
        ("Rate limit reached for model", C.RATE_LIMIT),
        ("connection refused by peer", C.CONNECTION),
        ("Invalid API key provided", C.AUTH),
        ("malformed response", C.COMMUNICATION),
        ("503 Service Unavailable", C.SERVER),
        ("no idea", C.PYTHON),
    ],
)
def test_the_message_speaks_when_nothing_else_does(message: str, expected: ErrorCategory) -> None:
    assert category(RuntimeError(message)) is expected


@pytest.mark.parametrize(
    "error",
    [
        TypeError("get() got an unexpected keyword argument 'timeout'"),
        AttributeError("'NoneType' object has no attribute 'rate_limit'"),
        KeyError("connection refused"),
        ImportError("cannot import name 'timeout'"),
        AssertionError("malformed"),
    ],
)
def test_a_mistake_in_code_that_quotes_such_a_word_stays_a_mistake(error: BaseException) -> None:
    found = classify(error)
    assert found.category is C.PYTHON
    assert not found.row.counts


# -- the task's own word -------------------------------------------------------------------------------------------


def test_permanent_is_the_tasks_last_word_whatever_the_error_carries() -> None:
    error = PermanentError("the account is closed; request timed out")
    error.status_code = 503  # type: ignore[attr-defined]
    assert not classify(error).row.transient


@pytest.mark.parametrize(("status", "expected"), [(None, C.CONNECTION), (400, C.CONNECTION), (429, C.RATE_LIMIT)])
def test_transient_is_transient_and_its_kind_is_read_off_it(status: int | None, expected: ErrorCategory) -> None:
    error = TransientError("busy")
    error.status_code = status  # type: ignore[attr-defined]
    assert category(error) is expected


@pytest.fixture
def add_rule() -> Iterator[Callable[[Any], Any]]:
    from resilience.errors.classify import _user_rules

    before = list(_user_rules)
    yield rule
    _user_rules[:] = before


def test_a_users_rule_comes_first_and_the_latest_before_it(add_rule: Callable[[Any], Any]) -> None:
    add_rule(lambda error: C.RATE_LIMIT if isinstance(error, TimeoutError) else None)
    assert category(TimeoutError()) is C.RATE_LIMIT
    assert category(ConnectionError()) is C.CONNECTION, "None passes it on"
    add_rule(lambda error: "session_error" if isinstance(error, TimeoutError) else None)
    assert category(TimeoutError()) is C.SESSION, "the category's name is as good as the category"


@pytest.mark.parametrize("wrong", [lambda error: error.no_such_attribute, lambda _: "no such category", lambda _: 7])
def test_a_users_rule_that_fails_is_logged_and_passed_over(
    wrong: Callable[[Any], Any], add_rule: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    add_rule(wrong)
    with caplog.at_level(logging.ERROR, "celeriac"):
        assert category(TimeoutError()) is C.TIMEOUT
    assert "it is passed over" in caplog.text


# -- hostile exceptions --------------------------------------------------------------------------------------------


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _BoobyTrappedError(Exception):
    """Every attribute that a classifier may look at raises."""

    @property
    def response(self) -> Any:
        raise RuntimeError("no request was set")

    status_code = status = http_status = errno = headers = response


def test_an_exception_whose_str_raises_is_classified() -> None:
    assert category(_MuteError()) is C.PYTHON


def test_an_exception_whose_attributes_raise_is_classified() -> None:
    assert category(_BoobyTrappedError("timed out")) is C.TIMEOUT
    assert retry_after_s(_BoobyTrappedError()) is None


def test_an_exception_that_is_its_own_cause_is_classified() -> None:
    error = RuntimeError("timed out")
    error.__cause__ = error
    error.__context__ = error
    assert category(error) is C.TIMEOUT


_ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dictionaries(st.text(), st.none())
)


@given(_ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING, st.text(max_size=100))
def test_no_attribute_of_whatever_type_breaks_it(
    status: Any, response: Any, number: Any, headers: Any, message: str
) -> None:
    error = RuntimeError(message)
    for name, value in (("status_code", status), ("response", response), ("errno", number), ("headers", headers)):
        setattr(error, name, value)
    found = classify(error)
    assert found.retry_after_s is None or found.retry_after_s >= 0


# -- Retry-After ---------------------------------------------------------------------------------------------------

_NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)


def _limited(**headers: str) -> BaseException:
    return http_error(429, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("-3", 0.0), (" 12 ", 12.0)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert classify(_limited(Retry_After=value)).retry_after_s == seconds


def test_retry_after_as_a_date_is_measured_against_now() -> None:
    date = format_datetime(_NOW + timedelta(seconds=90), usegmt=True)
    assert classify(_limited(Retry_After=date), _NOW).retry_after_s == 90.0
    assert classify(_limited(Retry_After=date), _NOW + timedelta(hours=1)).retry_after_s == 0.0


def test_without_now_the_date_is_measured_against_the_responses_own() -> None:
    later = format_datetime(_NOW + timedelta(seconds=30), usegmt=True)
    assert classify(_limited(Retry_After=later, Date=format_datetime(_NOW, usegmt=True))).retry_after_s == 30.0
    assert classify(_limited(Retry_After=later)).retry_after_s is None


@pytest.mark.parametrize("value", ["soon", "", "nan", "inf", "1e999", "Sun, 99 Foo 2026", "Sun, 01 Mar 2026 12:00:00"])
def test_a_retry_after_that_says_nothing_is_no_hint(value: str) -> None:
    assert classify(_limited(Retry_After=value), _NOW).retry_after_s is None


@pytest.mark.parametrize("name", ["retry-after", "Retry-After"])
def test_retry_after_is_found_in_plain_dicts_and_in_botocores_place(name: str) -> None:
    error = RuntimeError("limited")
    error.response = SimpleNamespace(headers={name: "3"})  # type: ignore[attr-defined]
    assert retry_after_s(error) == 3.0
    assert retry_after_s(_client_error(503, "SlowDown", {name: "4"})) == 4.0


def test_the_package_hands_the_classifier_on() -> None:
    assert package_level_classify is classify
