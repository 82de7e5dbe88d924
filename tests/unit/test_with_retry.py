"""`with_retry` without Redis: what is tried again, for how long, what gets through, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from tenacity import TryAgain, wait_fixed

from resilience import PermanentError, TransientError, backoff, with_retry
from tests.timing import timed

FAST = backoff.custom(lambda _: 0.001)
BOTH = pytest.mark.parametrize("kind", ["plain", "async"])


class Flaky:
    """Fails with each of `errors` in turn, then answers with its arguments; `calls` counts."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return args, kwargs


def call(kind: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`function` through with_retry, as a plain function or from an async one."""
    options = {"backoff": FAST, **options}
    if kind == "plain":
        return with_retry(function, **options)(*args)

    async def as_coroutine(*given: Any) -> Any:
        return function(*given)

    return asyncio.run(with_retry(as_coroutine, **options)(*args))


def notes_of(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


needs_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions carry notes since Python 3.11")


# -- what is tried again -------------------------------------------------------------------------------------------


@BOTH
def test_what_may_pass_is_tried_again_until_it_passes(kind: str) -> None:
    flaky = Flaky(ConnectionError(), TimeoutError())
    assert call(kind, flaky, 1, 2) == ((1, 2), {})
    assert flaky.calls == 3


@BOTH
def test_after_the_last_attempt_its_own_exception_is_raised(kind: str) -> None:
    errors = [TimeoutError(), ConnectionError(), ConnectionResetError("the last")]
    flaky = Flaky(*errors)
    with pytest.raises(ConnectionResetError) as caught:
        call(kind, flaky)
    assert caught.value is errors[-1]
    assert flaky.calls == 3


@needs_notes
@BOTH
def test_the_exception_says_why_there_was_no_further_attempt(kind: str) -> None:
    error = TimeoutError()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            call(kind, Flaky(error, error), attempts=2)
    [note] = notes_of(error)
    assert note.startswith("celeriac: ")
    assert note.endswith(": attempt 2 of 2 failed, no further one: it was the last")


@BOTH
@pytest.mark.parametrize(
    "error",
    [PermanentError("connection refused"), ValueError("no"), KeyError("timeout"), PermissionError("HTTP 401")],
    ids=repr,
)
def test_what_no_retry_helps_is_raised_at_once(kind: str, error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)) as caught:
        call(kind, flaky)
    assert caught.value is error
    assert flaky.calls == 1


@BOTH
def test_a_transient_error_decides_for_itself(kind: str) -> None:
    flaky = Flaky(TransientError("invalid api key"), TryAgain())
    call(kind, flaky)
    assert flaky.calls == 3


@BOTH
@pytest.mark.parametrize(
    "word",
    [KeyboardInterrupt("timed out"), SystemExit(3), GeneratorExit(), asyncio.CancelledError(), SoftTimeLimitExceeded(),
     Ignore(), Reject("connection refused"), Retry("timed out", ConnectionError())],
    ids=repr,
)  # fmt: skip
def test_being_told_to_stop_is_neither_retried_nor_swallowed(kind: str, word: BaseException) -> None:
    flaky = Flaky(word)
    with pytest.raises(type(word)) as caught:
        call(kind, flaky)
    if kind == "plain":
        assert caught.value is word
    assert flaky.calls == 1


@BOTH
def test_one_attempt_is_one_attempt(kind: str) -> None:
    flaky = Flaky(TimeoutError())
    with pytest.raises(TimeoutError):
        call(kind, flaky, attempts=1, backoff=backoff.linear(first_s=60, cap_s=60))
    assert flaky.calls == 1


@BOTH
def test_an_exception_that_hurts_whoever_looks_at_it_is_raised_as_it_is(kind: str) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("do not look")

    error = HostileError()
    error.__cause__ = error
    with pytest.raises(HostileError):
        call(kind, Flaky(error))


# -- waiting -------------------------------------------------------------------------------------------------------


@BOTH
def test_the_default_waits_a_tenth_of_a_second_then_two(kind: str) -> None:
    began = time.monotonic()
    call(kind, Flaky(TimeoutError(), TimeoutError()), backoff=backoff.exponential())
    assert 0.3 <= time.monotonic() - began < 0.3 * 1.25 + 0.3
    assert inspect.signature(with_retry).parameters["backoff"].default == backoff.exponential()


@BOTH
@pytest.mark.parametrize(
    "wait",
    [wait_fixed(0.05), lambda state: 0.05 * state.attempt_number, FAST],
    ids=["of tenacity", "a function", "of ours"],
)
def test_any_wait_of_tenacity_will_do(kind: str, wait: Any) -> None:
    flaky = Flaky(TimeoutError())
    call(kind, flaky, backoff=wait)
    assert flaky.calls == 2


class BusyError(Exception):
    """What a client raises for a 503 with a Retry-After."""

    def __init__(self, retry_after: str) -> None:
        super().__init__("busy")
        self.status_code = 503
        self.headers = {"Retry-After": retry_after}


@BOTH
def test_the_server_is_not_asked_again_before_it_wants_to_be(kind: str) -> None:
    began = time.monotonic()
    call(kind, Flaky(BusyError("0.2")))
    assert time.monotonic() - began >= 0.2


@BOTH
def test_a_hint_is_heeded_up_to_the_cap_of_a_hint_strategy(kind: str) -> None:
    assert timed(lambda: call(kind, Flaky(BusyError("3600")), backoff=backoff.server_hint(FAST, cap_s=0.1))) < 1


@BOTH
@pytest.mark.parametrize("answer", [None, "soon", float("nan")])
def test_a_backoff_that_answers_no_number_is_said(kind: str, answer: object) -> None:
    with pytest.raises(ValueError, match=r"a backoff said to wait .* but a number of seconds is right"):
        call(kind, Flaky(TimeoutError()), backoff=lambda _: answer)


@BOTH
def test_a_backoff_below_zero_waits_nothing(kind: str) -> None:
    call(kind, Flaky(TimeoutError()), backoff=lambda _: -5)


def test_an_event_loop_goes_on_while_one_call_waits() -> None:
    async def main() -> float:
        began = time.monotonic()
        waiting = with_retry(_async(Flaky(TimeoutError())), backoff=wait_fixed(0.2))
        await asyncio.gather(*(waiting() for _ in range(20)))
        return time.monotonic() - began

    assert asyncio.run(main()) < 1


def _async(function: Callable[..., Any]) -> Callable[..., Any]:
    async def as_coroutine(*args: Any) -> Any:
        return function(*args)

    return as_coroutine


# -- the deadline --------------------------------------------------------------------------------------------------


@needs_notes
@BOTH
def test_nothing_is_waited_for_that_would_end_after_the_deadline(kind: str) -> None:
    error = ConnectionError()
    flaky = Flaky(error)
    options = {"attempts": 99, "backoff": wait_fixed(5), "deadline_s": 1}
    with pytest.raises(ConnectionError) as caught:
        assert timed(lambda: call(kind, flaky, **options)) < 0.5
    assert flaky.calls == 1
    assert notes_of(caught.value)[0].endswith("the deadline of 1 s leaves no time for another")


@BOTH
def test_no_attempt_begins_after_the_deadline(kind: str) -> None:
    began_at: list[float] = []

    def fail() -> None:
        began_at.append(time.monotonic())
        raise ConnectionError

    began = time.monotonic()
    with pytest.raises(ConnectionError):
        call(kind, fail, attempts=1000, backoff=wait_fixed(0.01), deadline_s=1.0)
    assert len(began_at) > 3
    assert began_at[-1] - began_at[0] < 1.0
    assert time.monotonic() - began < 1.0 + 5.0


@BOTH
def test_an_attempt_that_began_in_time_is_cut_at_the_deadline(kind: str) -> None:
    async def hang() -> None:
        await asyncio.sleep(5)

    hanging = with_retry(functools.partial(time.sleep, 1) if kind == "plain" else hang, deadline_s=0.2)

    def run() -> None:
        with pytest.raises(TimeoutError, match=r"did not return within 0\.(2|1\d+) s"):  # what is left of 0.2
            hanging() if kind == "plain" else asyncio.run(hanging())

    assert timed(run) < 0.6
