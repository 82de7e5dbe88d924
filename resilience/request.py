"""Outcomes that only the main process sees: a lost child, a hard time limit. Each is observed once per attempt."""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request

from resilience.settings import given_by_user
from resilience.task import BY_THE_MIDDLEWARE
from signals.events import Attempt, Result

LOST_RETRY_DELAY_S = 1.0


class ResilientRequest(Request):
    """Celery's Request; adds the observation and a quick retry after a lost child."""

    _observed = False

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A soft limit is the child's to report; the hard one ends the attempt here."""
        super().on_timeout(soft, timeout)
        if not soft:
            self._observe(TimeLimitExceeded(timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery's handling, then the observation if no signal of the child can have told it."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        lost = isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
        if lost and not (self._already_cancelled or self._already_revoked):
            self._observe(error if isinstance(error, WorkerLostError) else WorkerLostError(str(error)))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _retry_worker_lost(self, exc: BaseException, exc_info: Any) -> bool:
        # Celery waits default_retry_delay (180 s) before it repeats a task whose child died. The death was the
        # child's, not the task's request to come back later: a second is enough. Its own bound on retries stays.
        task = self.task
        if not _may_run_again(task):
            return False
        usual = task.default_retry_delay
        task.default_retry_delay = min(usual, LOST_RETRY_DELAY_S)
        try:
            return bool(super()._retry_worker_lost(exc, exc_info))
        finally:
            task.default_retry_delay = usual

    def _observe(self, error: BaseException) -> None:
        resilience = getattr(self.app, "resilience", None)
        if resilience is None or self._observed:
            return
        self._observed = True
        retries = self.request_dict.get("retries")
        number = (retries if isinstance(retries, int) else 0) + 1
        attempt = Attempt(self.task.name, self.id, number, Result.FAILURE, error)
        resilience.runner.observe_lost(attempt, self.request_dict)


def _may_run_again(task: Any) -> bool:
    """The task's own word, else the app's; else only tasks that are acknowledged late: the others run at most once."""
    if task.retry_on_worker_lost != BY_THE_MIDDLEWARE:
        return bool(task.retry_on_worker_lost)
    given = given_by_user(task.app.conf, "task_retry_on_worker_lost")
    return bool(given) if given is not None else bool(task.acks_late and task.app.resilience.settings.enabled)
