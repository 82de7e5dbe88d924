"""The time limit of one attempt: what is cancelled, what is left behind, and what gets through while it waits."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from tenacity import wait_fixed

from resilience import backoff, with_retry
from resilience.testing import until
from tests.timing import timed

FAST = backoff.custom(lambda _: 0.001)


# -- the time limit of an attempt: plain functions ---------------------------------------------------------------


def test_a_plain_attempt_that_takes_too_long_is_a_timeout_and_may_be_tried_again() -> None:
    calls = []

    def slow_at_first() -> str:
        calls.append(threading.current_thread())
        if len(calls) == 1:
            time.sleep(0.5)
        return "there"

    assert with_retry(slow_at_first, timeout_s=0.1, backoff=FAST)() == "there"
    assert all(thread.daemon for thread in calls)


def test_a_timeout_is_one_sentence_that_names_the_function() -> None:
    with pytest.raises(TimeoutError) as caught:
        with_retry(_nap, timeout_s=0.05, attempts=2, backoff=FAST)()
    assert str(caught.value) == (
        f"{__name__}._nap did not return within 0.05 s (attempt 2 of 2); it is left to itself on its thread"
    )


def _nap() -> None:
    time.sleep(0.3)


def test_how_an_abandoned_attempt_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail_late() -> None:
        time.sleep(0.2)
        raise ConnectionError("too late, password=hunter2")

    caplog.set_level(logging.INFO, "celeriac")
    with pytest.raises(TimeoutError):
        with_retry(fail_late, timeout_s=0.05, attempts=1)()
    until(lambda: "fail_late ended" in caplog.text, within_s=5)
    assert "s after it was given up: ConnectionError: too late" in caplog.text
    assert "hunter2" not in caplog.text


_request_id: ContextVar[str] = ContextVar("request_id", default="none")
_thread_local = threading.local()


def test_context_variables_travel_to_an_attempt_and_thread_locals_do_not() -> None:
    _thread_local.value = "mine"

    def look() -> tuple[str, str]:
        return _request_id.get(), getattr(_thread_local, "value", "none")

    token = _request_id.set("r1")
    try:
        assert with_retry(look)() == ("r1", "none")
        assert with_retry(look, timeout_s=None)() == ("r1", "mine")
    finally:
        _request_id.reset(token)


def test_without_a_time_limit_a_plain_function_runs_in_the_callers_thread() -> None:
    assert with_retry(threading.get_ident, timeout_s=None)() == threading.get_ident()
    assert with_retry(threading.get_ident)() != threading.get_ident()


def test_the_traceback_leads_into_the_function_although_it_ran_on_a_thread() -> None:
    def fail_deep() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here") as caught:
        with_retry(fail_deep)()
    assert caught.traceback[-1].name == "fail_deep"


@pytest.fixture
def soft_limit() -> Iterator[Callable[[float], None]]:
    """Raise Celery's SoftTimeLimitExceeded in the main thread after so many seconds, as its workers do."""

    def exceeded(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, exceeded)
    timers: list[threading.Timer] = []

    def arm(after_s: float) -> None:
        timers.append(threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGUSR1)))
        timers[-1].start()

    yield arm
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("timeout_s", [30.0, None])
def test_celerys_soft_time_limit_gets_through_a_running_attempt(
    soft_limit: Callable[[float], None], timeout_s: float | None
) -> None:
    soft_limit(0.1)

    def run() -> None:
        with pytest.raises(SoftTimeLimitExceeded):
            with_retry(functools.partial(time.sleep, 2), timeout_s=timeout_s)()

    assert timed(run) < 1


def test_celerys_soft_time_limit_gets_through_a_wait(soft_limit: Callable[[float], None]) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    soft_limit(0.1)

    def run() -> None:
        with pytest.raises(SoftTimeLimitExceeded):
            with_retry(fail, backoff=wait_fixed(5))()

    assert timed(run) < 1
    assert calls == [1]


@pytest.mark.parametrize("where", ["attempt", "wait", "async"])
def test_ctrl_c_ends_a_program_at_once(where: str) -> None:
    script = """
        import asyncio, signal, sys, time
        from tenacity import wait_fixed
        from resilience import with_retry
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        def attempt():
            print("ready", flush=True)
            time.sleep(20)
        def wait():
            print("ready", flush=True)
            raise ConnectionError
        async def hang():
            print("ready", flush=True)
            await asyncio.sleep(20)
        if sys.argv[1] == "async":
            asyncio.run(with_retry(hang)())
        with_retry({"attempt": attempt, "wait": wait}[sys.argv[1]], backoff=wait_fixed(20))()
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), where]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = child.communicate(timeout=15)
        assert said.splitlines()[-1] == "KeyboardInterrupt"
        assert time.monotonic() - began < 5


# -- the time limit of an attempt: coroutines ----------------------------------------------------------------------


def test_a_coroutine_that_takes_too_long_is_cancelled_and_its_clean_up_awaited() -> None:
    ended: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            ended.append("cleaned up")
            raise

    with pytest.raises(TimeoutError, match=r"hang did not return within 0.05 s \(attempt 2 of 2\); it was cancelled"):
        asyncio.run(with_retry(hang, timeout_s=0.05, attempts=2, backoff=FAST)())
    assert ended == ["cleaned up"] * 2


@pytest.mark.parametrize("timeout_s", [5.0, None])
@pytest.mark.parametrize("while_waiting", [False, True])
def test_cancelling_the_caller_cancels_the_attempt_and_nothing_is_tried_again(
    timeout_s: float | None, while_waiting: bool
) -> None:
    ended: list[str] = []
    calls: list[int] = []

    async def hang() -> None:
        calls.append(1)
        if while_waiting:
            raise ConnectionError
        try:
            await asyncio.sleep(5)
        finally:
            ended.append("attempt")

    async def main() -> None:
        task = asyncio.ensure_future(with_retry(hang, timeout_s=timeout_s, backoff=wait_fixed(5))())
        while not calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # for the failed one: until it waits for its next attempt
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ended == ([] if while_waiting else ["attempt"]), "its clean-up is over before the caller goes on"

    asyncio.run(main())
    assert calls == [1]


def test_cancelling_is_not_swallowed_when_the_attempt_ends_at_the_same_moment() -> None:
    async def main() -> None:
        for turns in range(12):
            release = asyncio.Event()
            task = asyncio.ensure_future(with_retry(release.wait)())
            await asyncio.sleep(0.001)
            release.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_an_answer_in_spite_of_being_cancelled_is_taken() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            return "half an answer"
        return "never"

    assert asyncio.run(with_retry(stubborn, timeout_s=0.05)()) == "half an answer"


def test_what_a_cancelled_attempt_raises_instead_is_the_cause_of_the_timeout() -> None:
    async def bitter() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            raise ValueError("in the clean-up")

    with pytest.raises(TimeoutError) as caught:
        asyncio.run(with_retry(bitter, timeout_s=0.05, attempts=1)())
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_coroutine_that_is_closed_ends_quietly_and_its_attempt_with_it() -> None:
    async def main() -> None:
        attempts: list[asyncio.Task[None]] = []

        async def hang() -> None:
            current = asyncio.current_task()
            assert current is not None
            attempts.append(current)
            await asyncio.sleep(5)

        coroutine = with_retry(hang)()
        coroutine.send(None)
        while not attempts:
            await asyncio.sleep(0)
        coroutine.close()
        await asyncio.wait(attempts, timeout=1)
        assert attempts[0].cancelled()

    asyncio.run(main())
