"""Celery's signals, turned into one clean `Attempt` per attempt where the code ran.

Facts this rests on (Celery 5.7): receivers are weak references unless told otherwise; `task_failure` is also sent in
the main process, without a current request, for hard time limits, lost children and rejected messages. Those are
left to the Request class, which knows the attempt; here a signal without its own current request is not an attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import signals as celery_signals

from signals.events import Attempt, Result

Observer = Callable[[Attempt], None]

_STARTED_ATTRIBUTE = "_celeriac_started"


class Receivers:
    """Connects an observer to the signals of one app's tasks; every attempt reaches it exactly once."""

    def __init__(self, app: Any, observe: Observer) -> None:
        self._app = app
        self._observe = observe

    def connect(self) -> None:
        """Connect once; connecting the same app again replaces nothing and doubles nothing."""
        for signal, receiver in (
            (celery_signals.task_prerun, self._on_prerun),
            (celery_signals.task_success, self._on_success),
            (celery_signals.task_failure, self._on_failure),
            (celery_signals.task_retry, self._on_retry),
            (celery_signals.task_postrun, self._on_postrun),
        ):
            signal.connect(receiver, weak=False, dispatch_uid=f"celeriac:{id(self._app)}:{receiver.__name__}")

    def _on_prerun(self, sender: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            setattr(sender.request, _STARTED_ATTRIBUTE, time.monotonic())

    def _on_success(self, sender: Any = None, **_: Any) -> None:
        if self._is_ours(sender):
            self._report(sender, Result.SUCCESS, None)

    def _on_failure(
        self, sender: Any = None, task_id: str = "", exception: BaseException | None = None, **_: Any
    ) -> None:
        if self._is_ours(sender) and sender.request.id == task_id:
            self._report(sender, Result.FAILURE, exception)

    def _on_retry(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        # In the main process (a lost child that is retried) there is no current request: request.py reports it.
        if self._is_ours(sender) and request is not None and sender.request.id == request.id:
            # `raise self.retry()` in an except block names no exception but has one; outside of one it is a poll.
            error = getattr(reason, "exc", None) or getattr(reason, "__context__", None)
            failed = isinstance(error, Exception)
            self._report(sender, Result.FAILURE if failed else Result.NOTHING, error if failed else None)

    def _on_postrun(self, sender: Any = None, task_id: str = "", **_: Any) -> None:
        # Ignore, Reject and a task that revoked itself send no result signal: the attempt ended and says nothing.
        if self._is_ours(sender) and sender.request.id == task_id:
            self._report(sender, Result.NOTHING, None)

    def _is_ours(self, task: Any) -> bool:
        return getattr(task, "app", None) is self._app

    def _report(self, task: Any, result: Result, error: BaseException | None) -> None:
        request = task.request
        started = getattr(request, _STARTED_ATTRIBUTE, None)
        if started is None:
            return  # reported already, or never begun
        setattr(request, _STARTED_ATTRIBUTE, None)
        self._observe(
            Attempt(
                task=task.name,
                task_id=request.id,
                attempt=(request.retries or 0) + 1,
                result=result,
                error=error,
                runtime_s=time.monotonic() - started,
            )
        )
