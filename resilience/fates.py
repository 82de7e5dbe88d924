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
from resilience.aid import Aid
from resilience.delivery.broker import BROKER_ERRORS
from resilience.errors.classify import Classified, classify
from resilience.errors.taxonomy import CircuitOpenError, ErrorCategory
from resilience.errors.wrapping import wrap
from resilience.quarantine.record import Reason
from resilience.quarantine.verdict import Verdict, misfit, note
from resilience.recovery.deadline import left_s
from resilience.recovery.decide import (
    Abandon,
    Decision,
    FailOver,
    LongerTimeout,
    Park,
    Quarantine,
    RetryAfter,
    Situation,
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

CONTROL = (Ignore, Reject, Retry)
"""What a task raises to say what shall become of it: no failures."""
_BEGAN = "_celeriac_began"


class Fates:
    """One per app and process."""

    def __init__(self, core: Core, aid: Aid) -> None:
        self._core = core
        self._aid = aid

    def failed(self, task: Any, request: Any, error: Exception) -> None:
        """Raise what makes Celery retry or move the task; return to let it fail."""
        if isinstance(error, CONTROL) or not self._core.settings.retries_enabled:
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
        situation = self._situation(task, request, plan, journey, classified, error)
        circuit = plan.circuit_at(level)
        decision = self._decision(situation, circuit)
        self._aid.act(decision, Cause(
            classified.category.value, decision.severity.value, request.id, task.name, circuit, decision.why
        ))  # fmt: skip
        tried = _tried(decision, classified.category.value)
        self._aid.count(request.headers, tried)
        match decision.fate:
            case RetryAfter(delay_s=delay_s):
                self._core.bus.publish(RetryDecided(
                    request.id, task.name, attempt, classified.category.value, delay_s, decision.severity.value
                ))  # fmt: skip
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
                wrapped = self.abandon(task, request, attempt, error, reason, circuit, situation.all_workers_affected)
                again = attempt > 1 or journey.hop_count > 0 or classified.row.transient
                note(request, Verdict.of_failure(classified.row.strategy, again, reason, wrapped))

    def _situation(
        self, task: Any, request: Any, plan: Plan, journey: Journey, classified: Classified, error: Exception
    ) -> Situation:
        core = self._core
        level, total = level_in(plan, journey), request.retries or 0
        spent = min(journey.spent, total)
        refused = error.name if isinstance(error, CircuitOpenError) else ""
        worker = None if refused else self._aid.view(task, request, plan.circuit_at(level), classified)
        fails = bool(refused) and plan.on_open is OnOpen.FAIL
        return Situation(
            error=classified,
            retries=total - spent,
            spent=spent,
            max_retries=0 if fails else explicit.max_retries(task),
            next_level=None
            if refused and plan.on_open is not OnOpen.FAILOVER
            else choose_level(plan, core.may_pass, level + 1),
            hops=journey.hop_count,
            circuit_open=bool(refused),
            probe=not refused and core.share(plan.circuit_at(level)) == 0.0,
            may_park=bool(refused and journey.home and not fails) and core.can_park and core.refuses(refused),
            left_s=left_s(request.headers, time.time()),
            own_delay_s=explicit.delay_s(task, total - spent),
            user_facing=plan.user_facing,
            keeps=core.settings.quarantine_abandoned if core.quarantine_on else "none",
            all_workers_affected=worker is not None and worker.has_company,
            worker=worker,
        )

    def _decision(self, situation: Situation, circuit: str) -> Decision:
        """A retry is asked for from the fleet's budget only when everything else allows it."""
        decision = decide(situation, random.random)
        if isinstance(decision.fate, RetryAfter) and not self._core.may_retry(circuit):
            decision = decide(replace(situation, budget_spent=True), random.random)
        return decision

    # -- fates -------------------------------------------------------------------------------------------------

    def _limits(self, task: Any, request: Any, factor: float) -> dict[str, float]:
        """Celery's options for a next attempt that may take `factor` times as long as usual."""
        before = tried_by(request.headers)
        if factor == 1.0 and (before is None or before.factor == 1.0):
            return {}
        conf = self._core.app.conf
        own = task.time_limit or conf.task_time_limit, task.soft_time_limit or conf.task_soft_time_limit
        return longer_limits(request.timelimit, own, request.headers, factor)

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
        self, task: Any, request: Any, attempt: int, error: Exception, reason: str, circuit: str,
        all_workers_affected: bool = False,
    ) -> WrappedError:  # fmt: skip
        """Tell everybody that the task is given up, and why; returns what is known of the error."""
        began = getattr(request, _BEGAN, None)
        elapsed_s = None if began is None else time.time() - began
        wrapped = wrap(
            error, attempt=attempt, task_id=request.id, task=task.name, worker=request.hostname,
            circuit=circuit or None, started_at=began, elapsed_s=elapsed_s, matrix=self._core.matrix,
            all_workers_affected=all_workers_affected,
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
    return journey_of(request.headers, queue_of(task.app.amqp.queues.consume_from, request.delivery_info))


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
