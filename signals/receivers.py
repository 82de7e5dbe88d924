"""Celery's signals, turned into one clean `Attempt` per attempt where the code ran.

Facts this rests on (Celery 5.7; each was run):

- Receivers are weak references unless told otherwise.
- `task_failure` and `task_retry` are also sent in the main process, for hard time limits, lost children and rejected
  messages. Those are the Request class's to tell, which knows the attempt; here only a request that `task_prerun`
  saw is an attempt.
- `task_failure` is not sent when a hook of the task or the result backend fails too, nor when an eager run hands its
  error on to the caller. Only `task_postrun`, which is always sent, is left then, with no state.
- `task_postrun` says SUCCESS where `task_success` was sent a moment before, and also where storing the result or a hook
  failed after the body: then that exception is passing while it is sent. So it alone is enough, at half the price.
- An exception that cannot be pickled reaches the signals as one of its base classes, without status code and response.
  So what the body raised is remembered by the one who runs it.
- What is no `Exception` (SystemExit, gevent's Timeout and GreenletExit) passes through to the pool, which ends the
  process or tells the Request. So it is not told here, except by an eager run, which has no pool.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from celery import signals as celery_signals
from celery.exceptions import Retry
from celery.states import SUCCESS
from celery.utils.serialization import UnpickleableExceptionWrapper

from signals.events import Attempt, Result

Observer = Callable[[Attempt, Any], None]
"""Takes an attempt and the custom headers of its message."""

EndedWell = Callable[[str, Any], bool]
"""Takes the task's name and the request of an attempt that succeeded; False where an observer is to hear of it."""

_STARTED_ATTRIBUTE = "_celeriac_started"
_ERROR_ATTRIBUTE = "_celeriac_error"


def is_under_way(request: Any) -> bool:
    """Whether `request` is an attempt that Celery's tracer began, in a worker or eagerly, and that has not ended."""
    return getattr(request, _STARTED_ATTRIBUTE, None) is not None


def remember(request: Any, error: Exception) -> None:
    """Note what the body of a task raised: no signal may tell it, or only a poorer copy of it."""
    setattr(request, _ERROR_ATTRIBUTE, error)


class Receivers:
    """Connects an observer to the signals of one app's tasks; every attempt reaches it at most once."""

    def __init__(self, app: Any, observe: Observer, ended_well: EndedWell = lambda _name, _request: False) -> None:
        self._app = app
        self._observe = observe
        self._ended_well = ended_well

    def connect(self) -> None:
        """Connect once; connecting the same app again replaces nothing and doubles nothing."""
        for signal, receiver in (
            (celery_signals.task_prerun, self._on_prerun),
            (celery_signals.task_failure, self._on_failure),
            (celery_signals.task_retry, self._on_retry),
            (celery_signals.task_postrun, self._on_postrun),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=f"celeriac:{id(self._app)}:{receiver.__name__}")

    def _on_prerun(self, sender: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            # What is handled already, as where a task is called eagerly in an `except`, is none of this attempt's.
            begun = self, time.monotonic(), sys.exc_info()[1]
            setattr(sender.request_stack.top, _STARTED_ATTRIBUTE, begun)

    def _on_failure(
        self, sender: Any = None, task_id: str = "", exception: BaseException | None = None, **_: Any
    ) -> None:
        if self._is_ours(sender) and sender.request.id == task_id:
            self._report_error(sender, getattr(sender.request, _ERROR_ATTRIBUTE, None) or exception)

    def _on_retry(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        if self._is_ours(sender) and request is not None and sender.request.id == request.id:
            self._report_error(sender, getattr(request, _ERROR_ATTRIBUTE, None) or reason)

    def _on_postrun(self, sender: Any = None, task_id: str = "", state: str | None = None, **_: Any) -> None:
        stack = getattr(sender, "request_stack", None)
        request: Any = None if stack is None else stack.top
        if not self._has_begun(request) or request.id != task_id:
            return
        _, _, handled = getattr(request, _STARTED_ATTRIBUTE)
        passing = sys.exc_info()[1]
        if state == SUCCESS and passing is handled:
            if self._ended_well(sender.name, request):
                setattr(request, _STARTED_ATTRIBUTE, None)
            else:
                self._report(sender, Result.SUCCESS, None)
        elif state is not None:
            # Ignore, Reject and a task that revoked itself send no result signal: the attempt ended and says nothing.
            # Nor does one whose result could not be stored, or whose own hook for success failed.
            self._report(sender, Result.NOTHING, None)
        elif isinstance(passing, Exception) or request.is_eager:
            self._report_error(sender, getattr(request, _ERROR_ATTRIBUTE, None))

    def _is_ours(self, task: Any) -> bool:
        return getattr(task, "app", None) is self._app

    def _has_begun(self, request: Any) -> bool:
        """Whether this very object saw the attempt begin, and has not told its end: no other app's attempt is that."""
        begun = getattr(request, _STARTED_ATTRIBUTE, None)
        return begun is not None and begun[0] is self

    def _report_error(self, task: Any, error: Any) -> None:
        """Report a failure, or nothing where there is no error: a retry without one behind it is a poll."""
        error = _behind(error) if isinstance(error, Retry) else error
        failed = isinstance(error, Exception)
        self._report(task, Result.FAILURE if failed else Result.NOTHING, error if failed else None)

    def _report(self, task: Any, result: Result, error: BaseException | None) -> None:
        request = task.request
        if not self._has_begun(request):
            return  # reported already, or never begun
        _, started, _ = getattr(request, _STARTED_ATTRIBUTE)
        setattr(request, _STARTED_ATTRIBUTE, None)
        setattr(request, _ERROR_ATTRIBUTE, None)  # it holds the frames, and they the request
        attempt = Attempt(
            task=task.name,
            task_id=request.id,
            attempt=(request.retries or 0) + 1,
            result=result,
            error=error,
            runtime_s=time.monotonic() - started,
        )
        self._observe(attempt, request.headers)


def _behind(retry: Retry) -> BaseException | None:
    """What made a task retry: the exception it named, else the one it was handling."""
    named: BaseException | None = retry.exc
    handled: BaseException | None = retry.__context__
    if isinstance(named, UnpickleableExceptionWrapper) or (named is not None and isinstance(handled, type(named))):
        return handled or named  # Celery has put a base class in place of what cannot be pickled
    return named or handled
