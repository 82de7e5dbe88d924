"""The task base class: admission where the code runs, and what happens to a failure.

Everything goes through `__call__`, which Celery's tracer uses instead of `run`. A direct call of the task as a
function is left alone. Options a task sets for itself (`autoretry_for`, `max_retries`) win over the matrix, and so
does a task that calls `self.retry`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from resilience.delivery.original import PASSES_ON
from resilience.delivery.results import tell_retry
from resilience.errors.taxonomy import NotReadyError
from resilience.quarantine.verdict import give_up
from resilience.recovery.failover import Level
from signals.receivers import is_under_way, remember

BY_THE_MIDDLEWARE = "by the middleware"
"""The value of `retry_on_worker_lost` when nobody set it: see `resilience.request`."""

_GUARDED = "_celeriac_guarded"
_RETRIED_FOR = "_celeriac_retried_for"
_RETRIES_ITSELF = "_celeriac_retries_itself"
_SPENT_ITS_RETRIES = "_celeriac_spent_its_retries"


class ResilientTask(Task):
    """Celery's Task with a circuit, fallback levels, and retries by the error matrix.

    `circuit`: name of the dependency's circuit; None means the task's own name, False means none.
    `fallback`: levels, tried in order when the circuit is open or retries are spent: names of queues, or
    `fallback_task(...)`.
    `on_open`: what an open circuit does: "failover" to the levels, else parking; "park" at once; "fail".
    `deadline_s`: seconds after it was sent, or after its eta, within which it must begin; later it fails instead.
    `user_facing`: somebody waits for it, so recovery gets half the time.
    """

    abstract = True
    Request = "resilience.request:ResilientRequest"

    circuit: ClassVar[str | bool | None] = None
    fallback: ClassVar[Sequence[str | Level] | str | Level] = ()
    on_open: ClassVar[str] = "failover"
    deadline_s: ClassVar[float | None] = None
    user_facing: ClassVar[bool] = False
    retry_on_worker_lost: ClassVar[bool | str] = BY_THE_MIDDLEWARE

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return guarded(self, super().__call__, args, kwargs)

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, *more: Any, **options: Any) -> Any:
        """Celery's retry. A task that calls it has decided for itself; its failure is not retried by the matrix."""
        request = self.request
        setattr(request, _RETRIES_ITSELF, True)
        setattr(request, _RETRIED_FOR, exc)
        try:
            return super().retry(args, kwargs, exc, *more, **options)
        except (Retry, Reject, Ignore):
            raise
        except Exception:
            setattr(request, _SPENT_ITS_RETRIES, True)
            raise

    def retry_by_matrix(self, **options: Any) -> Any:
        """Celery's retry, called by the middleware."""
        setattr(self.request, _RETRIED_FOR, options.get("exc"))
        return super().retry(throw=False, **options)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Celery's apply_async. The next attempt of the task that is running is sent after its RETRY is stored."""
        attempt = options.get("retries")
        if attempt:
            running = self.request_stack.top
            if running is not None and options.get("task_id") == running.id and attempt > running.retries:
                tell_retry(self, running, getattr(running, _RETRIED_FOR, None))
        return super().apply_async(*args, **options)

    setattr(apply_async, PASSES_ON, True)


def guarded(task: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`call(*args, **kwargs)` with admission before and a decision after a failure, once per run of the task.

    A run is what Celery's tracer began, in a worker or eagerly. An eager run is admitted and its outcome counts; it
    is never moved or retried, and an open circuit raises CircuitOpenError into it: its caller waits for the answer.
    """
    request = task.request_stack.top
    is_run = request is not None and not getattr(request, _GUARDED, False) and is_under_way(request)
    resilience = getattr(task.app, "resilience", None) if is_run else None
    if resilience is None:
        return call(*args, **kwargs)
    setattr(request, _GUARDED, True)
    runner = resilience.runner
    runner.enter(task, request)
    try:
        return call(*args, **kwargs)
    except Exception as error:
        remember(request, error)
        if not request.is_eager:
            if isinstance(error, NotReadyError):
                resilience.turn_away(task, request, error)
            if not getattr(request, _RETRIES_ITSELF, False):
                runner.failed(task, request, error)
            spent = getattr(request, _SPENT_ITS_RETRIES, False)
            give_up(task, request, error, spent, resilience.settings.quarantine_abandoned)
        raise
