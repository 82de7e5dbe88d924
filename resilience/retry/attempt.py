"""One attempt with a time limit: a coroutine is cancelled when its time is up, a plain function is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from signals.redact import describe

T = TypeVar("T")

logger = logging.getLogger("celeriac")


def run(function: Callable[[], T], limit_s: float, name: str, late: str) -> T:
    """What `function()` returns or raises, run on a daemon thread that sees a copy of the caller's context variables.

    Raises TimeoutError(`late`) when it is not back after `limit_s` seconds. No thread can be stopped, so it then runs
    on, and how it ends is logged under `name`. A signal that raises in the waiting thread (Ctrl-C, Celery's soft time
    limit) gets through at once and leaves it behind likewise.
    """
    return _Attempt(function, name).within(limit_s, late)


async def run_async(awaitable: Awaitable[T], limit_s: float, late: str) -> T:
    """What the awaitable gives or raises, in an asyncio task of its own with a copy of the context variables.

    When it is not done after `limit_s` seconds it is cancelled, and TimeoutError(`late`) raised when its clean-up is
    over. Whoever cancels the caller cancels it too; that is never taken for anything else.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            return task.result()
        await _cancel(task)
    except asyncio.CancelledError:
        if not task.done():
            await _cancel(task)
        raise
    except GeneratorExit:  # the caller is thrown away without a loop to wait on
        task.cancel()
        raise
    error = None if task.cancelled() else task.exception()
    if error is None and not task.cancelled():
        return task.result()  # it came back with an answer all the same
    raise TimeoutError(late) from error


async def _cancel(task: asyncio.Future[T]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # seen: asyncio complains of an exception that nobody looked at


def _task_context() -> AbstractContextManager[None]:
    """Celery keeps the running task and its request per thread: what takes both to the attempt's thread."""
    state = sys.modules.get("celery._state")
    task = state.get_current_task() if state is not None else None
    request = task.request_stack.top if task is not None else None
    return nullcontext() if request is None else _as_task(state, task, request)


@contextmanager
def _as_task(state: Any, task: Any, request: Any) -> Iterator[None]:
    state._task_stack.push(task)  # noqa: SLF001  what Celery's own tracer does
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        state._task_stack.pop()  # noqa: SLF001  the same


class _Attempt(Generic[T]):
    def __init__(self, function: Callable[[], T], name: str) -> None:
        self._function = function
        self._name = name
        self._context = contextvars.copy_context()
        self._inside = _task_context()
        self._ended = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        self._left_at: float | None = None

    def within(self, limit_s: float, late: str) -> T:
        threading.Thread(target=self._run, name=f"celeriac-attempt-{self._name}", daemon=True).start()
        try:
            back = self._ended.wait(limit_s)
        except BaseException:
            self._left_at = time.monotonic()
            raise
        if not back:
            self._left_at = time.monotonic()
            raise TimeoutError(late)
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it would hold the frame that holds it
        return self._result  # type: ignore[return-value]  # set when there was no error

    def _run(self) -> None:
        try:
            with self._inside:
                self._result = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            self._error = error
        self._ended.set()
        if self._left_at is not None:
            how = "with a result" if self._error is None else describe(self._error)
            after_s = time.monotonic() - self._left_at
            logger.info("celeriac: %s ended %.1f s after it was given up: %s", self._name, after_s, how)
