"""An error that shows nothing is judged by its cause; and no exception, however hostile, hurts who looks at it."""

from __future__ import annotations

import concurrent.futures
import errno
import logging
import multiprocessing
import pickle
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from billiard.einfo import ExceptionInfo
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import (
    CircuitOpenError,
    ErrorCategory,
    PermanentError,
    TransientError,
    WrappedError,
    classify,
    rule,
    wrap,
)
from resilience.errors.classify import CAUSES_LIMIT, _user_rules
from resilience.errors.hints import retry_after_s
from signals.redact import describe

C = ErrorCategory


def caused(*errors: BaseException) -> BaseException:
    """The first error, raised from the second, raised from the third..."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def category(error: BaseException) -> ErrorCategory:
    return classify(error).category


class PaymentError(Exception):
    """A user's own type, which says nothing to us."""


def _pay(*, explicitly: bool) -> None:
    try:
        _time_out()
    except httpx.ReadTimeout as error:
        if explicitly:
            raise PaymentError("the payment was not made") from error
        raise PaymentError("while cleaning up")  # noqa: B904  that is the point


def _time_out() -> None:
    raise httpx.ReadTimeout("slow")


def test_an_explicit_cause_speaks_for_an_error_that_shows_nothing() -> None:
    with pytest.raises(PaymentError) as caught:
        _pay(explicitly=True)
    assert category(caught.value) is C.TIMEOUT


def test_an_implicit_context_says_nothing() -> None:
    with pytest.raises(PaymentError) as caught:
        _pay(explicitly=False)
    assert category(caught.value) is C.PYTHON


def test_what_the_error_itself_shows_beats_its_cause() -> None:
    assert category(caused(PaymentError("rate limit reached"), httpx.ReadTimeout("slow"))) is C.RATE_LIMIT
    assert category(caused(KeyError("id"), httpx.ReadTimeout("slow"))) is C.PYTHON, "a mistake in code is evidence"


def test_a_cause_behind_a_cause_is_found() -> None:
    assert category(caused(PaymentError(), PaymentError(), PaymentError(), ConnectionResetError())) is C.CONNECTION


def test_the_tasks_own_word_counts_as_a_cause_too() -> None:
    assert category(caused(PaymentError(), PermanentError("closed"))) is C.INVALID_REQUEST
    assert classify(caused(PaymentError(), TransientError("busy"))).row.transient
    assert category(caused(TransientError("busy"), httpx.ReadTimeout("slow"))) is C.TIMEOUT
    assert category(caused(TransientError("busy"), PermanentError("closed"))) is C.CONNECTION


def test_the_hint_of_a_cause_is_heard() -> None:
    request = httpx.Request("GET", "http://api.example")
    limited = httpx.HTTPStatusError(
        "429", request=request, response=httpx.Response(429, headers={"Retry-After": "7"}, request=request)
    )
    assert classify(caused(PaymentError(), limited)).retry_after_s == 7.0
    assert classify(caused(TimeoutError(), limited)).retry_after_s == 7.0


@pytest.fixture
def own_rules() -> Iterator[None]:
    before = list(_user_rules)
    yield
    _user_rules[:] = before


def test_a_users_rule_sees_the_causes(own_rules: None) -> None:
    rule(lambda error: C.SESSION if isinstance(error, PaymentError) else None)
    assert category(caused(RuntimeError(), PaymentError())) is C.SESSION


def test_a_reason_that_an_error_wraps_is_its_cause() -> None:
    assert category(urllib.error.URLError(TimeoutError("read"))) is C.TIMEOUT


def test_the_text_of_a_traceback_from_another_process_is_no_evidence() -> None:
    """Pools put it in the place of the cause; it quotes source lines, here one with the words `timed out` in it."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(_timed_out_in_name_only).exception()
    assert error is not None
    assert "timed out" in str(error.__cause__)
    assert category(error) is C.PYTHON


def _timed_out_in_name_only() -> None:
    raise PaymentError("no")  # a source line that says: the request timed out


def test_a_wrapped_error_keeps_its_category_and_its_hint() -> None:
    error = wrap(caused(PaymentError("no"), httpx.ConnectError("refused")))
    assert category(error) is C.CONNECTION
    assert category(caused(RuntimeError(), error)) is C.CONNECTION


# -- bounds --------------------------------------------------------------------------------------------------------


def test_a_chain_is_followed_so_far_and_no_further() -> None:
    assert category(caused(*[PaymentError() for _ in range(CAUSES_LIMIT - 1)], TimeoutError())) is C.TIMEOUT
    assert category(caused(*[PaymentError() for _ in range(CAUSES_LIMIT)], TimeoutError())) is C.PYTHON


def test_an_error_that_is_its_own_cause_is_classified() -> None:
    error = PaymentError("no")
    error.__cause__ = error.__context__ = error
    assert category(error) is C.PYTHON


def test_a_ring_of_causes_is_classified() -> None:
    one, two, three = PaymentError(), PaymentError(), httpx.ReadTimeout("slow")
    caused(one, two, three, one)
    assert {category(each) for each in (one, two, three)} == {C.TIMEOUT}


def test_a_chain_that_grows_while_it_is_followed_ends() -> None:
    class Endless(Exception):  # noqa: N818
        @property
        def reason(self) -> BaseException:
            return Endless()

    assert category(Endless()) is C.PYTHON


@given(st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_no_web_of_causes_holds_it_up(targets: list[int]) -> None:
    errors = [PaymentError(str(number)) for number in range(10)]
    for error, target in zip(errors, targets, strict=True):
        error.__cause__ = errors[target]
    assert category(errors[0]) is C.PYTHON


# -- hostile exceptions --------------------------------------------------------------------------------------------


def _raise(*_: Any) -> Any:
    raise RuntimeError("redis://:hunter2@cache")


class _MuteError(Exception):
    __str__ = _raise


class _BoobyTrappedError(Exception):
    """Every attribute that a classifier may look at raises."""

    response = status_code = status = http_status = errno = headers = code = reason = property(_raise)


class _ClasslessError(Exception):
    __class__ = property(_raise)


class _LyingError(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return ConnectionError


class _HostileMeta(type):
    __name__ = property(_raise)
    __module__ = property(_raise)
    __mro__ = property(_raise)
    __hash__ = _raise
    __eq__ = _raise


class _HostileClassError(Exception, metaclass=_HostileMeta):
    pass


class _CauselessError(Exception):
    __cause__ = property(_raise)


class _EverythingRaisesError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


_HOSTILE = [_MuteError, _BoobyTrappedError, _ClasslessError, _LyingError, _HostileClassError, _CauselessError,
            _EverythingRaisesError]  # fmt: skip


@pytest.mark.parametrize("kind", _HOSTILE, ids=type.__repr__)
def test_a_hostile_exception_is_classified_wrapped_and_shown(kind: type[Exception]) -> None:
    error = kind("nothing to see")
    assert category(error) is C.PYTHON
    assert category(caused(PaymentError(), error)) is C.PYTHON
    assert retry_after_s(error) is None
    wrapped = wrap(error, operation="call")
    assert "python_error" in wrapped.format_for_logging()
    assert "hunter2" not in f"{wrapped} {wrapped!r} {wrapped.to_json()}"


def test_what_a_booby_trapped_exception_says_is_still_heard() -> None:
    assert category(_BoobyTrappedError("timed out")) is C.TIMEOUT


@pytest.mark.parametrize("make", [RuntimeError, lambda text: PaymentError(text, text), KeyError])
def test_a_message_of_ten_megabytes_takes_no_long_time(make: Callable[[str], BaseException]) -> None:
    error = make("password=hunter2 " + "x" * 10_000_000)
    began = time.process_time()
    category(error)
    wrapped = wrap(error)
    assert len(str(wrapped)) < 2_000
    assert time.process_time() - began < 1.0


def test_a_faulty_rule_shows_no_secret_of_the_error_in_the_log(
    own_rules: None, caplog: pytest.LogCaptureFixture
) -> None:
    rule(_raise)
    error = caused(PaymentError("no"), ConnectionError("redis://:hunter2@cache"))
    with caplog.at_level(logging.DEBUG, "celeriac"):
        assert category(error) is C.CONNECTION
    assert "passed over" in caplog.text
    assert "hunter2" not in caplog.text


# -- what ends a program is no word of the exception's own -----------------------------------------------------------


def _ending(ending: BaseException) -> type[Exception]:
    """An exception that raises `ending` wherever it is touched."""

    def touch(*_: Any) -> Any:
        raise ending

    names = ("response", "status_code", "errno", "headers", "code", "reason", "exceptions", "orig", "__str__")
    return type("EndingError", (Exception,), {name: property(touch) for name in names[:-1]} | {"__str__": touch})


@pytest.mark.parametrize("ending", [SystemExit(1), GeneratorExit(), type("AnyEnd", (BaseException,), {})()])
def test_nothing_that_an_exception_raises_when_it_is_touched_ends_the_worker(
    ending: BaseException, own_rules: None, caplog: pytest.LogCaptureFixture
) -> None:
    error = _ending(ending)("no")
    assert category(error) is C.PYTHON
    assert retry_after_s(error) is None
    assert "python_error" in wrap(error, detail=error, more={"it": error}).format_for_logging()
    assert "no message" in describe(error)
    pickle.dumps(wrap(error))

    def faulty(_: BaseException) -> None:
        raise ending

    rule(faulty)
    assert category(TimeoutError()) is C.TIMEOUT
    assert "passed over" in caplog.text


def test_the_word_of_a_person_at_the_keyboard_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        classify(_ending(KeyboardInterrupt())("no"))


def test_each_attribute_is_read_once_however_many_rules_ask() -> None:
    reads: Counter[str] = Counter()

    class CountingError(Exception):
        def __getattribute__(self, name: str) -> Any:
            reads[name] += 1
            return super().__getattribute__(name)

        def __str__(self) -> str:
            reads["__str__"] += 1
            return "no"

    classify(CountingError())
    assert {"response", "code", "headers", "__cause__", "__str__"} <= reads.keys()
    assert set(reads.values()) == {1}, reads


def test_a_wrapped_error_and_a_refusal_without_their_attributes_are_classified() -> None:
    assert category(WrappedError.__new__(WrappedError)) is C.PYTHON
    assert category(CircuitOpenError.__new__(CircuitOpenError)) is C.CONNECTION
    assert "python_error" in wrap(WrappedError.__new__(WrappedError)).format_for_logging()


_ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dictionaries(st.text(), st.none())
)


@given(_ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING, st.text(max_size=100))
def test_no_attribute_of_whatever_type_breaks_it(
    status: Any, response: Any, number: Any, headers: Any, code: Any, message: str
) -> None:
    error = RuntimeError(message)
    values = {"status_code": status, "response": response, "errno": number, "headers": headers, "code": code}
    for name, value in values.items():
        setattr(error, name, value)
    found = classify(error)
    assert found.retry_after_s is None or found.retry_after_s >= 0


def test_errno_of_a_pool_is_read_where_it_is_one() -> None:
    assert category(caused(PaymentError(), OSError(errno.ENOSPC, "full"))) is C.RESOURCE


def test_an_error_as_billiard_hands_it_over_is_classified() -> None:
    try:
        _time_out()
    except httpx.ReadTimeout:
        info = pickle.loads(pickle.dumps(ExceptionInfo()))
    error = info.exception
    assert "httpx.ReadTimeout" in str(error.__cause__), "the text of the traceback is in the place of the cause"
    assert category(error) is C.TIMEOUT
