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
from resilience.errors.taxonomy import CircuitOpenError
from resilience.errors.wrapping import wrap
from resilience.quarantine.record import Reason
from resilience.quarantine.verdict import Verdict, misfit, note
from resilience.recovery.deadline import left_s
from resilience.recovery.decide import Decision, FailOver, RetryAfter, Situation, decide
from resilience.recovery.failover import HEADER, Journey, Plan, choose_level, journey_of, level_in, moved_to
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
        decision = self._decision(task, request, plan, journey, classified, isinstance(error, CircuitOpenError))
        match decision.fate:
            case RetryAfter(delay_s=delay_s):
                self._core.bus.publish(RetryDecided(request.id, task.name, attempt, classified.category.value, delay_s))
                _retry(task, error, countdown=delay_s, max_retries=attempt)
            case FailOver(level=target):
                self._fail_over(task, request, plan, journey, target, f"{classified.category.value}", error)
            case given_up:
                reason = getattr(given_up, "reason", decision.why)
                wrapped = self.abandon(task, request, attempt, error, reason, plan.circuit_at(level))
                tried = attempt > 1 or journey.hop_count > 0 or classified.row.transient
                note(request, Verdict.of_failure(classified.row.strategy, tried, reason, wrapped))

    def _decision(
        self, task: Any, request: Any, plan: Plan, journey: Journey, error: Classified, refused: bool
    ) -> Decision:
        core = self._core
        level, total = level_in(plan, journey), request.retries or 0
        spent = min(journey.spent, total)
        situation = Situation(
            error=error,
            retries=total - spent,
            spent=spent,
            max_retries=explicit.max_retries(task),
            next_level=choose_level(plan, core.may_pass, level + 1),
            hops=journey.hop_count,
            circuit_open=refused,
            left_s=left_s(request.headers, time.time()),
            own_delay_s=explicit.delay_s(task, total - spent),
            user_facing=plan.user_facing,
            keeps=core.settings.quarantine_abandoned if core.quarantine_on else "none",
        )
        decision = decide(situation, random.random)
        if isinstance(decision.fate, RetryAfter) and not core.may_retry(plan.circuit_at(level)):
            decision = decide(replace(situation, budget_spent=True), random.random)
        return decision

    def _fail_over(
        self, task: Any, request: Any, plan: Plan, journey: Journey, target: int, category: str, error: Exception
    ) -> NoReturn:
        attempt = (request.retries or 0) + 1
        origin = plan.queue_at(level_in(plan, journey), journey.home)
        way = moved_to(plan, journey, task.name, target, origin, f"{category} after attempt {attempt}", attempt)
        self._core.tell_moved(request.id, task.name, way.journey)
        _retry(
            task, error, countdown=0, max_retries=attempt, queue=plain_queue(way.queue),
            headers={**(request.headers or {}), HEADER: way.journey.header()}, router=plain_router(self._core.app),
        )  # fmt: skip

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
