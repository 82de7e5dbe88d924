"""From an exception to its category: reference cases, real clients' exceptions, look-alikes, and hostile ones."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import socket
import ssl
import urllib.error
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import amqp.exceptions  # type: ignore[import-untyped]
import billiard.exceptions
import httpx
import kombu.exceptions
import pytest
import redis
import requests
import urllib3

from resilience.errors import classify as package_level_classify
from resilience.errors.classify import classify, rule
from resilience.errors.hints import retry_after_s
from resilience.errors.overrides import matrix_with
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


def openai_style(name: str, status: int | None = None, code: str | None = None) -> BaseException:
    """As the SDKs of OpenAI, Anthropic and those who copy them make their errors: a class, a status, a code."""
    return look_alike("openai", name, status_code=status, code=code)


# What an LLM call meets, as an SDK, an HTTP client and Python itself report it, and what is done about it.
_REFERENCE = [
    ("timeout", openai_style("APITimeoutError"), http_error(504), TimeoutError("read"), C.TIMEOUT, True, 2),
    ("rate limit", openai_style("RateLimitError", 429), http_error(429), None, C.RATE_LIMIT, True, 5),
    ("connection", openai_style("APIConnectionError"), httpx.ConnectError("no"), ConnectionRefusedError(), C.CONNECTION,
     True, 5),
    ("unavailable", openai_style("InternalServerError", 503), http_error(503), None, C.SERVER, True, 3),
    ("bad gateway", openai_style("InternalServerError", 502), http_error(502), None, C.SERVER, True, 3),
    ("server error", openai_style("InternalServerError", 500), http_error(500), None, C.SERVER, True, 3),
    ("bad key", openai_style("AuthenticationError", 401), http_error(401), None, C.AUTH, False, 0),
    ("no right", openai_style("PermissionDeniedError", 403), http_error(403), None, C.AUTH, False, 0),
    ("no such model", openai_style("NotFoundError", 404), http_error(404), None, C.NOT_FOUND, False, 0),
    ("bad request", openai_style("BadRequestError", 400), http_error(422), None, C.INVALID_REQUEST, False, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sdk", "http", "python", "expected", "transient", "max_retries"),
    [case[1:] for case in _REFERENCE],
    ids=[case[0] for case in _REFERENCE],
)
def test_the_ten_reference_cases_of_a_call_to_a_model(
    sdk: BaseException,
    http: BaseException,
    python: BaseException | None,
    expected: C,
    transient: bool,
    max_retries: int,
) -> None:
    for error in filter(None, (sdk, http, python)):
        found = classify(error)
        assert found.category is expected, repr(error)
        assert (found.row.transient, found.row.max_retries) == (transient, max_retries)


def test_a_spent_quota_is_no_rate_limit_although_the_status_says_so() -> None:
    assert category(openai_style("RateLimitError", 429, "rate_limit_exceeded")) is C.RATE_LIMIT
    assert category(openai_style("RateLimitError", 429, "insufficient_quota")) is C.AUTH


@pytest.mark.parametrize(
    ("status", "expected"),
    [(408, C.TIMEOUT), (529, C.SERVER), (402, C.AUTH), (410, C.NOT_FOUND), (413, C.INVALID_REQUEST),
     (418, C.INVALID_REQUEST), (599, C.SERVER)],
)  # fmt: skip
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
        (MemoryError(), C.RESOURCE),
        (KeyError("timeout"), C.PYTHON),
        (EOFError("end of file"), C.COMMUNICATION),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), C.CONNECTION),
        (httpx.UnsupportedProtocol("ftp"), C.INVALID_REQUEST),
        (requests.exceptions.ConnectTimeout("slow"), C.TIMEOUT),
        (requests.exceptions.SSLError("certificate"), C.CONNECTION),
        (requests.exceptions.MissingSchema("no scheme"), C.INVALID_REQUEST),
        (urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("h"), "/", "slow"), C.TIMEOUT),
        (urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("h"), "/", ConnectionResetError()), C.CONNECTION),
        (urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known")), C.CONNECTION),
        (redis.exceptions.ReadOnlyError("a replica"), C.CONNECTION),
        (redis.exceptions.MaxConnectionsError("no connection left"), C.RESOURCE),
        (redis.exceptions.ResponseError("WRONGTYPE"), C.PYTHON),
        (amqp.exceptions.AccessRefused("no"), C.AUTH),
        (amqp.exceptions.NotFound("no queue"), C.NOT_FOUND),
        (amqp.exceptions.ConnectionForced("shutdown"), C.CONNECTION),
        (kombu.exceptions.LimitExceeded(10), C.RESOURCE),
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
        (look_alike("anthropic._exceptions", "OverloadedError", status_code=529), C.SERVER),
        (look_alike("anthropic._exceptions", "APIConnectionError"), C.CONNECTION),
        (look_alike("botocore.exceptions", "NoCredentialsError"), C.AUTH),
        (look_alike("botocore.exceptions", "ParamValidationError"), C.INVALID_REQUEST),
        (look_alike("google.api_core.exceptions", "ServiceUnavailable", code=503), C.SERVER),
        (look_alike("smtplib", "SMTPResponseException", code=550), C.PYTHON),
        (look_alike("urllib3.exceptions", "NewConnectionError"), C.CONNECTION),
        (
            look_alike(
                "aiohttp.client_exceptions",
                "ServerDisconnectedError",
                type("ClientConnectionError", (Exception,), {"__module__": "aiohttp.client_exceptions"}),
            ),
            C.CONNECTION,
        ),
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


def test_the_tasks_own_word_beats_an_override_of_the_matrix() -> None:
    patient = matrix_with({"invalid_request": {"transient": True, "strategy": "backoff_retry", "max_retries": 9}})
    assert not classify(PermanentError("closed"), matrix=patient).row.transient
    hasty = matrix_with({"connection_error": {"transient": False, "strategy": "abandon"}})
    assert classify(TransientError("busy"), matrix=hasty).row.transient


def test_the_row_is_that_of_the_matrix_in_force() -> None:
    matrix = matrix_with({"server_error": {"max_retries": 9}})
    assert classify(http_error(503), matrix=matrix).row.max_retries == 9
    assert classify(http_error(503)).row.max_retries == 3


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
    with caplog.at_level(logging.WARNING, "celeriac"):
        assert category(TimeoutError()) is C.TIMEOUT
    assert "it is passed over" in caplog.text


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


@pytest.mark.parametrize(("value", "seconds"), [("1500", 1.5), ("0", 0.0), ("soon", 3.0)])
def test_retry_after_in_milliseconds_is_finer(value: str, seconds: float) -> None:
    assert retry_after_s(_limited(Retry_After="3", retry_after_ms=value)) == seconds


def test_a_refusal_by_a_circuit_hints_at_when_a_probe_may_pass() -> None:
    assert classify(CircuitOpenError("openai", "open", 12.5)).retry_after_s == 12.5
    assert classify(CircuitOpenError("openai", "half_open", 0.0)).retry_after_s is None


def test_the_package_hands_the_classifier_on() -> None:
    assert package_level_classify is classify
