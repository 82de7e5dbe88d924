"""What becomes of a failed attempt, carried out with Celery's own means: id, chord, callbacks and events stay right.

`recovery.decide` decides; this gathers what it needs to know, and does what it says.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from celery.app.routes import Router
from celery.exceptions import Ignore, Reject, Retry

from resilience import explicit
from resilience.delivery.broker import BROKER_ERRORS
from resilience.errors.classify import Classified, classify
from resilience.errors.taxonomy import CircuitOpenError, ErrorCategory
from resilience.errors.wrapping import wrap
from resilience.identity import owner
from resilience.quarantine.record import Reason
from resilience.quarantine.verdict import Verdict, misfit, note
from resilience.recovery.deadline import left_s
from resilience.recovery.decide import (
    Abandon,
    Decision,
    FailOver,
    FreeResources,
    LongerTimeout,
    Park,
    Quarantine,
    RetryAfter,
    Situation,
    WorkerAction,
    WorkerView,
    decide,
)
from resilience.recovery.failover import HEADER, Journey, OnOpen, Plan, choose_level, journey_of, level_in, moved_to
from resilience.recovery.ledger import Cause
from resilience.recovery.patience import RECOVERY_HEADER, Tried, longer_limits, tried_by
from resilience.router import plain_queue, queue_of
from signals.events import RetryDecided, TaskAbandoned
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core
    from resilience.errors.wrapped import WrappedError

_CONTROL = (Ignore, Reject, Retry)
_BEGAN = "_celeriac_began"


class Fates:
    """One per app and process."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def failed(self, task: Any, request: Any, error: Exception) -> None:
        """Raise what makes Celery retry or move the task; return to let it fail."""
        if isinstance(error, _CONTROL) or not self._core.settings.retries_enabled:
            return
        if explicit.decides(task, error):
            return
        plan = self._core.plan_of_message(task.name, request.headers, task)
        if plan is None:
            return
        journey = journey_at(task, request)
        level = level_in(plan, journey)
        attempt = (request.retries or 0) + 1
        fault = misfit(task, request.args, request.kwargs, error)
        if fault:
            self.abandon(task, request, attempt, error, fault, plan.circuit_at(level))
            return
        classified = classify(error, matrix=self._core.matrix)
        decision = self._decision(task, request, plan, journey, classified, error)
        circuit = plan.circuit_at(level)
        self._act(decision, Cause(
            classified.category.value, decision.severity.value, request.id, task.name, circuit, decision.why
        ))  # fmt: skip
        self._count(request.headers, decision, classified.category.value)
        match decision.fate:
            case RetryAfter(delay_s=delay_s):
                self._core.bus.publish(RetryDecided(request.id, task.name, attempt, classified.category.value, delay_s))
                tried = _tried(decision, classified.category.value)
                _retry(
                    task, error, countdown=delay_s, max_retries=attempt,
                    headers={**(request.headers or {}), RECOVERY_HEADER: tried.header()},
                    **self._limits(task, request, tried.factor),
                )  # fmt: skip
            case FailOver(level=target):
                self._fail_over(task, request, plan, journey, target, classified.category.value, error)
            case Park():
                self._park(task, request, plan, journey, error)
            case Quarantine(reason=reason) | Abandon(reason=reason):
                wrapped = self.abandon(task, request, attempt, error, reason, circuit)
                again = attempt > 1 or journey.hop_count > 0 or classified.row.transient
                note(request, Verdict.of_failure(classified.row.strategy, again, reason, wrapped))

    def _decision(
        self, task: Any, request: Any, plan: Plan, journey: Journey, classified: Classified, error: Exception
    ) -> Decision:
        core = self._core
        level, total = level_in(plan, journey), request.retries or 0
        spent = min(journey.spent, total)
        refused = error.name if isinstance(error, CircuitOpenError) else ""
        worker = None if refused else self._view(task, request, plan.circuit_at(level), classified)
        fails = bool(refused) and plan.on_open is OnOpen.FAIL
        situation = Situation(
            error=classified,
            retries=total - spent,
            spent=spent,
            max_retries=0 if fails else explicit.max_retries(task),
            next_level=None
            if refused and plan.on_open is not OnOpen.FAILOVER
            else choose_level(plan, core.may_pass, level + 1),
            hops=journey.hop_count,
            circuit_open=bool(refused),
            may_park=bool(refused and journey.home and not fails) and core.can_park and core.refuses(refused),
            left_s=left_s(request.headers, time.time()),
            own_delay_s=explicit.delay_s(task, total - spent),
            user_facing=plan.user_facing,
            keeps=core.settings.quarantine_abandoned if core.quarantine_on else "none",
            all_workers_affected=worker is not None and 0 < worker.others == worker.others_affected,
            worker=worker,
        )
        decision = decide(situation, random.random)
        if isinstance(decision.fate, RetryAfter) and not core.may_retry(plan.circuit_at(level)):
            decision = decide(replace(situation, budget_spent=True), random.random)
        return decision

    def _view(self, task: Any, request: Any, circuit: str, error: Classified) -> WorkerView | None:
        """How this worker fares with this circuit; counts the failure."""
        if not self._core.circuits_on:
            return None
        address = request.delivery_info or {}
        queues = task.app.amqp.queues.consume_from
        queue = queue_of(queues, address.get("exchange"), address.get("routing_key"))
        view = self._core.recoveries.tally.failed(circuit, error.category.value, queue if queue in queues else "")
        return replace(view, kept=self._core.settings.worker_restarts)

    # -- beside the fate ---------------------------------------------------------------------------------------

    def _act(self, decision: Decision, cause: Cause) -> None:
        """What is done before the fate, and asked of the worker: within the time budget."""
        if not self._core.circuits_on:
            return
        if isinstance(decision.first, FreeResources):
            self._core.recoveries.free_resources(cause, decision.budget_s)
        if decision.worker is not None and self._core.can_park:  # there is a pulse that does it
            self._core.recoveries.ask(decision.worker, owner(), cause, decision.budget_s)
            if decision.worker is WorkerAction.RECONNECT:
                self._core.recoveries.tally.reconnects(cause.circuit, cause.category)

    def _count(self, headers: Any, decision: Decision, category: str) -> None:
        """What was tried before has failed; what is tried now begins."""
        if not self._core.circuits_on:
            return
        tally, before = self._core.recoveries.tally, tried_by(headers)
        if before is not None:
            tally.ended(before.strategy, before.category, succeeded=False)
        tally.initiated(_tried(decision, category).strategy, category)

    def ended_well(self, task: str, headers: Any) -> None:
        """An attempt succeeded, and with it what was tried."""
        core = self._core
        if not core.circuits_on:
            return
        tally = core.recoveries.tally
        before = tried_by(headers) if headers and RECOVERY_HEADER in headers else None
        if before is not None:
            tally.ended(before.strategy, before.category, succeeded=True)
        plan = core.plan_of_message(task, headers) if tally.in_trouble else None
        if plan is not None:
            tally.succeeded(plan.circuit_at(level_in(plan, journey_of(headers, ""))))

    def _limits(self, task: Any, request: Any, factor: float) -> dict[str, float]:
        """Celery's options for a next attempt that may take `factor` times as long as usual."""
        before = tried_by(request.headers)
        if factor == 1.0 and (before is None or before.factor == 1.0):
            return {}
        conf = self._core.app.conf
        own = task.time_limit or conf.task_time_limit, task.soft_time_limit or conf.task_soft_time_limit
        return longer_limits(request.timelimit, own, request.headers, factor)

    # -- fates -------------------------------------------------------------------------------------------------

    def _fail_over(
        self, task: Any, request: Any, plan: Plan, journey: Journey, target: int, category: str, error: Exception
    ) -> NoReturn:
        attempt = (request.retries or 0) + 1
        origin = plan.queue_at(level_in(plan, journey), journey.home)
        way = moved_to(plan, journey, task.name, target, origin, f"{category} after attempt {attempt}", attempt)
        self._core.tell_moved(request.id, task.name, way.journey)
        _retry(
            task, error, countdown=0, max_retries=attempt, queue=plain_queue(way.queue),
            headers={
                **(request.headers or {}), HEADER: way.journey.header(),
                RECOVERY_HEADER: Tried("failover", category).header(),
            },
            router=plain_router(self._core.app), **self._limits(task, request, 1.0),
        )  # fmt: skip

    def _park(self, task: Any, request: Any, plan: Plan, journey: Journey, error: Exception) -> NoReturn:
        """No retry is spent: it was refused, and it waits until the circuit that refused it lets calls pass."""
        assert isinstance(error, CircuitOpenError)
        here = plan.queue_at(level_in(plan, journey), journey.home)
        try:
            queue = self._core.parking.queue_for(journey.home, error.name)
            journey = journey.moved(here, queue, f"{error}, no level healthy: parked", 0, request.retries or 0)
            headers = {
                **(request.headers or {}),
                RECOVERY_HEADER: Tried("park", ErrorCategory.CONNECTION.value).header(),
            }
            republish(task, request, queue, journey, headers=headers, **self._limits(task, request, 1.0))
        except BROKER_ERRORS as trouble:
            if task.acks_late:
                raise Reject(describe(trouble), requeue=True) from error
            raise error from trouble  # acknowledged before it began: it fails, and says so
        self._core.tell_moved(request.id, task.name, journey)
        raise Ignore

    def fail_fast(self, task: Any, request: Any, attempt: int, refusal: CircuitOpenError) -> None:
        """Its circuit is open and it is to fail then: tell why, before the refusal is raised."""
        reason = "its circuit is open, and on_open='fail'"
        wrapped = self.abandon(task, request, attempt, refusal, reason, refusal.name)
        note(request, Verdict(Reason.FAILED, f"{reason}: {wrapped}", wrapped.to_json()))

    def abandon(
        self, task: Any, request: Any, attempt: int, error: Exception, reason: str, circuit: str
    ) -> WrappedError:
        """Tell everybody that the task is given up, and why; returns what is known of the error."""
        began = getattr(request, _BEGAN, None)
        elapsed_s = None if began is None else time.time() - began
        wrapped = wrap(
            error, attempt=attempt, task_id=request.id, task=task.name, worker=request.hostname,
            circuit=circuit or None, started_at=began, elapsed_s=elapsed_s, matrix=self._core.matrix,
        )  # fmt: skip
        known = wrapped.context
        event = TaskAbandoned(
            request.id, task.name, attempt, known.category.value, known.severity.value, describe(error), reason,
            wrapped.to_json(), wrapped.format_for_logging(f"given up: {reason}"),
        )  # fmt: skip
        self._core.bus.publish(event)
        return wrapped


def begins(request: Any) -> None:
    """Note when this attempt began."""
    setattr(request, _BEGAN, time.time())


def journey_at(task: Any, request: Any) -> Journey:
    """The journey of the message that `request` runs."""
    address = request.delivery_info or {}
    exchange = address.get("exchange")
    queues = task.app.amqp.queues.consume_from if exchange else {}
    queue = queue_of(queues, exchange, address.get("routing_key"))
    return journey_of(request.headers, queue)


def republish(
    task: Any, request: Any, queue: str, journey: Journey, headers: dict[str, Any] | None = None, **options: Any
) -> None:
    """The message that `request` runs, under the same id, on `queue`. Raises the broker's errors."""
    known = {**(request.headers or {}), **(headers or {}), HEADER: journey.header()}
    task.signature_from_request(request, queue=plain_queue(queue), headers=known, **options).apply_async(
        router=plain_router(task.app)
    )


def _tried(decision: Decision, category: str) -> Tried:
    match decision:
        case Decision(fate=RetryAfter(), first=LongerTimeout(factor=factor)):
            return Tried("longer_timeout", category, factor)
        case Decision(fate=RetryAfter()):
            return Tried("retry", category)
        case Decision(fate=FailOver()):
            return Tried("failover", category)
        case _:
            return Tried(type(decision.fate).__name__.lower(), category)


def plain_router(app: Any) -> Router:
    """Celery's own router: the destination is decided already."""
    return Router((), app.amqp.queues, create_missing=True, app=app)


def _retry(task: Any, error: Exception, **options: Any) -> NoReturn:
    try:
        raise task.retry_by_matrix(exc=error, **options)
    except Reject as refused:
        # Celery rejects the message for good when its retry cannot be published; that would lose the task.
        if task.acks_late and isinstance(refused.reason, BROKER_ERRORS):
            raise Reject(refused.reason, requeue=True) from error
        raise error from refused  # acknowledged before it began, or no retry is possible: it fails, and says so
