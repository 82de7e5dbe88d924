"""What happens around one run of a task, where its code runs: admission, the fate of a failure, the outcome.

What becomes of a failure is decided in `recovery.decide` and carried out in `fates`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from billiard.exceptions import WorkerLostError
from celery.exceptions import Ignore, Reject

from resilience.aid import Aid
from resilience.breaker.calls import run_under
from resilience.breaker.permit import Ending, Permit
from resilience.delivery.broker import BROKER_ERRORS
from resilience.errors.taxonomy import CircuitOpenError, DeadlineError
from resilience.fates import CONTROL, Fates, begins, journey_at, republish
from resilience.recovery.deadline import left_s
from resilience.recovery.failover import HEADER, Journey, OnOpen, Plan, detour, journey_of, level_in
from resilience.workers.running import RunningAttempt
from signals.events import Attempt, Result
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core

logger = logging.getLogger("celeriac")

Listener = Callable[[Attempt], object]


class Runner:
    """One per app and process; permits of running attempts are kept by attempt until their outcome is observed."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._aid = Aid(core)
        self._fates = Fates(core, self._aid)
        # Written and emptied by one step of the interpreter each, so that threads need no lock.
        self._permits: dict[tuple[str, int], Permit] = {}
        self._listeners: list[Listener] = []

    # -- before ------------------------------------------------------------------------------------------------

    def enter(self, task: Any, request: Any) -> None:
        """Admit the run, or move its message elsewhere and raise Ignore. Trouble of our own lets it run.

        Raises DeadlineError for a task that should have begun before, and CircuitOpenError into an eager run, which has
        no message, and for a task with on_open='fail'.
        """
        begins(request)
        try:
            self._enter(task, request)
        except (*CONTROL, CircuitOpenError, DeadlineError):
            raise
        except Exception:
            logger.exception("celeriac: %s[%s] runs unguarded", task.name, request.id)

    def _enter(self, task: Any, request: Any) -> None:
        core, headers = self._core, request.headers
        plan = core.plan_of_message(task.name, headers, task) if headers else core.plan_for(task.name, task)
        if plan is None:
            return
        if headers:
            self._keep_deadline(task, request)
        if not core.circuits_on:
            return
        circuit, spent = plan.circuit, 0
        if headers and HEADER in headers:
            journey = journey_at(task, request)
            circuit, spent = plan.circuit_at(level_in(plan, journey)), journey.spent
        attempt = (request.retries or 0) + 1
        permit = core.breakers.admit_freely(circuit)  # as nearly always: nothing has to be known of the attempt
        if permit is None:
            try:
                lease_s = self._lease_s(task, request)
                permit = core.breakers.admit(circuit, f"{request.id}:{attempt}", lease_s, ramp=False)
            except CircuitOpenError as refusal:
                if request.is_eager:
                    raise
                if plan.on_open is OnOpen.FAIL:
                    self._fates.fail_fast(task, request, attempt, refusal)
                    raise
                self._move_away(task, request, plan, journey_at(task, request), refusal)
                return
        if attempt - 1 == spent:  # its first on this level: it counts once however often it retries
            core.budgets.called(circuit)
        run_under(permit)
        self._permits[request.id, attempt] = permit

    def _lease_s(self, task: Any, request: Any) -> float | None:
        """How long a half-open permit of this attempt is needed at most: its hard time limit. None without one."""
        hard = (request.timelimit or (None, None))[0] or task.time_limit or self._core.task_time_limit
        return float(hard) if hard else None

    def _keep_deadline(self, task: Any, request: Any) -> None:
        left = left_s(request.headers, time.time())
        if left is None or left > 0:
            return
        attempt = (request.retries or 0) + 1
        error = DeadlineError(f"{task.name} was to begin before its deadline, {-left:.1f} s ago; it was not begun")
        self._fates.abandon(task, request, attempt, error, "its deadline is over", "")
        raise error

    def _move_away(self, task: Any, request: Any, plan: Plan, journey: Journey, refusal: CircuitOpenError) -> None:
        core = self._core
        here = plan.queue_at(level_in(plan, journey), journey.home)
        retries = request.retries or 0
        if not journey.home:
            return  # its address means no queue of ours: it cannot be moved, so it runs
        try:
            park = core.parking.queue_for if core.can_park else None
            way = detour(plan, journey, task.name, here, str(refusal), retries, core.may_pass, park)
            if way is None:
                republish(task, request, here, journey, countdown=max(1.0, refusal.retry_after_s))
            else:
                republish(task, request, way.queue, way.journey)
        except BROKER_ERRORS as error:
            if task.acks_late:
                # The broker is away: the message is still its own, and tries again from the queue it came from.
                raise Reject(describe(error), requeue=True) from error
            # It was acknowledged before it began, so it cannot go back: running it is the way to lose nothing.
            logger.warning("celeriac: %s[%s] runs although %s: no broker", task.name, request.id, refusal)
            return
        if way is not None:
            core.tell_moved(request.id, task.name, way.journey)
        raise Ignore

    # -- after a failure ---------------------------------------------------------------------------------------

    def failed(self, task: Any, request: Any, error: Exception) -> None:
        """Raise what makes Celery retry or move the task; return, as with trouble of our own, to let it fail."""
        try:
            self._fates.failed(task, request, error)
        except CONTROL:
            raise
        except Exception as trouble:
            if trouble is not error:
                logger.exception("celeriac: no decision about the failure of %s[%s]", task.name, request.id)

    # -- outcomes ----------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Listener:
        """Have `listener` called with every attempt that this process observes; a decorator too."""
        self._listeners.append(listener)
        return listener

    def observe(self, attempt: Attempt, headers: Mapping[str, Any] | None) -> None:
        """The receiver's word on how an attempt ended in this process."""
        if not self._settled(attempt) and attempt.result is not Result.NOTHING:
            self._settle_lost(attempt, self._circuit_of(attempt.task, headers))  # it failed before it was admitted
        if attempt.result is Result.SUCCESS:
            self._aid.ended_well(attempt.task, headers)
        self._tell(attempt)

    def ended_well(self, task: str, request: Any) -> bool:
        """Settle an attempt that succeeded, at no more cost than that; False, and nothing done, where more is to do."""
        if self._listeners:
            return False
        permit = self._permits.pop((request.id, (request.retries or 0) + 1), None)
        if permit is None:
            return False
        permit.settle()
        self._aid.ended_well(task, request.headers)
        return True

    def observe_lost(self, attempt: Attempt, headers: Mapping[str, Any] | None) -> None:
        """The main process's word on an attempt that its child, or its thread, cannot tell any more."""
        if not self._settled(attempt):
            self._settle_lost(attempt, self._circuit_of(attempt.task, headers))
        self._tell(attempt)

    def observe_dead(self, worker: str, running: RunningAttempt, stopping: bool) -> None:
        """The finder's word on an attempt that was running in `worker`, another main process, when that died.

        It failed, unless the worker was being stopped, or the message was acknowledged before the run: then it may
        have ended well, and only its half-open permit is given back.
        """
        failed = bool(running.tag) and not stopping
        attempt = Attempt(
            task=running.task,
            task_id=running.task_id,
            attempt=running.attempt,
            result=Result.FAILURE if failed else Result.NOTHING,
            error=WorkerLostError(f"worker {worker} died") if failed else None,
        )
        self._settle_lost(attempt, running.circuit, worker)
        if running.tag:
            self._tell(attempt)

    def _settled(self, attempt: Attempt) -> bool:
        permit = self._permits.pop((attempt.task_id, attempt.attempt), None)
        if permit is not None:
            permit.settle(_ending(attempt))
        return permit is not None

    def _settle_lost(self, attempt: Attempt, circuit: str | None, worker: str | None = None) -> None:
        if circuit is not None and self._core.circuits_on:
            permit_id = f"{attempt.task_id}:{attempt.attempt}"
            self._core.breakers.settle_lost(circuit, permit_id, _ending(attempt), worker)

    def _circuit_of(self, task: str, headers: Mapping[str, Any] | None) -> str | None:
        plan = self._core.plan_of_message(task, headers)
        return None if plan is None else plan.circuit_at(level_in(plan, journey_of(headers, "")))

    def _tell(self, attempt: Attempt) -> None:
        for listener in self._listeners:
            try:
                listener(attempt)
            except Exception as error:  # noqa: BLE001, PERF203  each listener is on its own, and none may fail the work
                logger.warning("celeriac: listener %r failed on an attempt: %s", listener, describe(error))


def _ending(attempt: Attempt) -> Ending:
    if attempt.result is Result.SUCCESS:
        return None  # a success like any call's: it waits for company at the price of a count
    return attempt.error if attempt.result is Result.FAILURE and attempt.error is not None else attempt.result
