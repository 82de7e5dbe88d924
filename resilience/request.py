"""Outcomes that only the main process sees: a lost child, a hard time limit. Each is observed once per attempt."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import signals as celery_signals
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request, logger
from kombu.utils.encoding import safe_repr, safe_str

from resilience.delivery import starts
from resilience.delivery.deaths import tried_again, went_first
from resilience.delivery.ends import stops_cold
from resilience.delivery.results import tell_retry
from resilience.quarantine.record import Reason
from resilience.quarantine.verdict import Verdict, arrived
from resilience.recovery.chords import part_ended
from resilience.settings import given_by_user
from resilience.task import BY_THE_MIDDLEWARE
from resilience.workers.turned_away import SentAgain, TurnedAway, put_back
from signals.events import Attempt, Result
from signals.redact import describe, redact

LOST_RETRY_DELAY_S = 1.0


class ResilientRequest(Request):
    """Celery's Request; adds the observation, a quick retry after a lost child, and the way into the quarantine."""

    _observed = False
    _succeeded = False
    _verdict: Verdict | None = None
    """Why the message is quarantined before it is acknowledged, from the failure on until that has happened."""
    _quarantined = False
    _turned_away = False
    acknowledged: bool

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        stock = vars(cls).get("on_success")  # Celery makes a subclass per task, with a shortcut of its own
        if stock is None:
            return

        def on_success(self: ResilientRequest, outcome: Any, **kwargs: Any) -> Any:
            # Pools without processes hand `sys.exit()` in a task over as if it were a result; Celery unpacks it and
            # fails: the solo worker ends, other pools hold the message for ever.
            if isinstance(outcome, ExceptionInfo):
                return self.on_failure(outcome)
            return stock(self, outcome, **kwargs)

        cls.on_success = on_success
        stock_execute = vars(cls)["execute_using_pool"]

        def execute_using_pool(self: ResilientRequest, pool: Any, **kwargs: Any) -> Any:
            if self._content_type and (pool.body_can_be_buffer or pool.is_green):
                # It runs in this very process, where the body was decoded already: to judge the message.
                self._body, self._content_type, self._content_encoding = self.message.payload, None, None
            return stock_execute(self, pool, **kwargs)

        cls.execute_using_pool = execute_using_pool

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002  Celery's name
        """Celery's own event, its error redacted: Flower and every consumer of events show it."""
        if "exception" in fields or "traceback" in fields:
            for name in ("exception", "traceback"):
                if isinstance(fields.get(name), str):
                    fields[name] = redact(fields[name])
        super().send_event(type, **fields)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool begins the task. Raises TaskRevokedError where it must not run here any more."""
        starts.accepted(self)
        super().on_accepted(pid, time_accepted)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """A cold shutdown ends what runs, in pools that can. In others it runs to its end.

        Solo and threads cannot end a task. Celery's attempt raises inside a signal handler: of solo, in the middle of
        the task, which then counts as failed and is lost; of threads, in the loop, which then says that it crashed.
        """
        if type(pool).terminate_job is not BasePool.terminate_job or "terminate_job" in vars(pool):
            super().cancel(pool, signal, emit_retry)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A soft limit is the child's to report; the hard one ends the attempt here."""
        if not soft:
            self._verdict = self._judged(Verdict(Reason.TIME_LIMIT, f"it ran longer than {timeout:g} s"))
        try:
            super().on_timeout(soft, timeout)
            self._quarantine_if_acknowledged_before()
        finally:
            if not soft:
                self._observe(TimeLimitExceeded(timeout))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery's handling, then the observation if no signal of the child can have told it.

        `return_ok`: the child did tell, and these are the words that it raised (another task's loss, for example).
        """
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, (TurnedAway, SentAgain)):
            self._turned_away = True
            self.app.resilience.checkout.found_not_ready(str(error.args[0]))
        if self._verdict is None:
            self._verdict = self._judged(self._verdict_on(exc_info, error))
        try:
            outcome = super().on_failure(exc_info, send_failed_event, return_ok)
            if self._already_cancelled:
                starts.cancelled(self)
            self._quarantine_if_acknowledged_before()
            return outcome
        finally:
            lost = isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
            if lost and not (return_ok or self._succeeded):
                self._observe(error if isinstance(error, WorkerLostError) else WorkerLostError(repr(error)))

    def _success_was_stored(self) -> Any:
        # A child that was lost after its success: its receivers told that.
        stored = super()._success_was_stored()
        if stored and not part_ended(self, self._context, stored.get("result")):
            stored = False
        self._succeeded = bool(stored)
        if stored:
            self._verdict = None
        return stored

    def _announce_revoked(self, *args: Any) -> None:
        super()._announce_revoked(*args)
        self._observe(None)

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        super()._announce_cancelled(*args, **kwargs)
        self._observe(None)

    def _retry_worker_lost(self, exc: BaseException, exc_info: Any) -> bool:
        # Celery waits default_retry_delay (180 s) before it repeats a task whose child died. The death was the
        # child's, not the task's request to come back later: a second is enough. Its own bound on retries stays.
        task, context = self.task, self._context
        if not _may_run_again(task):
            return False
        held, delay_s = starts.held_of(self.message), min(task.default_retry_delay, LOST_RETRY_DELAY_S)
        if held is not None and not self.acknowledged and self.message.delivery_tag not in held:
            self._verdict = None
            return True  # others have its message already: it runs again without a word from here
        tell_retry(task, context, exc, exc_info.traceback)
        if not (self._is_put_off(delay_s) or self._is_sent_again(delay_s)):
            return False
        self._verdict = None
        if task.acks_late:
            self.acknowledge()
        self.send_event("task-retried", exception=safe_repr(exc), traceback=safe_str(exc_info.traceback))
        reason = Retry(exc=exc, when=delay_s)
        task.request_stack.push(context)
        try:
            task.on_retry(exc, self.id, self.args, self.kwargs, exc_info)
            celery_signals.task_retry.send(sender=task, request=context, reason=reason, einfo=exc_info)
        finally:
            task.request_stack.pop()
        logger.info("Task %s[%s] retry: %s", self.task_name, self.id, reason)
        return True

    def _is_put_off(self, delay_s: float) -> bool:
        """Have its message itself wait and then go to the front of its queue, in one step; False if it cannot.

        Once: what is cut short again and again, by itself perhaps, must not stand in everybody's way.
        """
        held = starts.held_of(self.message)
        if held is None or self.acknowledged or went_first(self.request_dict):
            return False
        if not held.put_off(self.message, delay_s, tried_again):
            return False
        self.message.channel.qos.forget(self.message.delivery_tag)
        self.acknowledged = True
        return True

    def _is_sent_again(self, delay_s: float) -> bool:
        """Celery's way: another message, behind all that waits."""
        context = self._context
        try:
            again = self.task.signature_from_request(context, countdown=delay_s, retries=context.retries + 1)
            again.apply_async()
        except Exception:  # noqa: BLE001  whatever it is, the message that is still here goes back instead
            logger.exception("Failed to retry task %s[%s] after its process was lost", self.task_name, self.id)
            return False
        return True

    # -- into the quarantine -----------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Celery's, but what is given up is acknowledged when the quarantine has it."""
        if self._verdict is None or self.acknowledged:
            super().acknowledge()
        else:
            self._quarantine(lambda: self._on_ack(logger, self._connection_errors))

    def reject(self, requeue: bool = False) -> None:
        """The same for a rejection; with `requeue` it will run again."""
        if requeue:
            self._verdict = None
        if requeue and self._turned_away and not self.acknowledged and put_back(self.message):
            self.acknowledged = True
            self.send_event("task-rejected", requeue=True)
        elif self._verdict is None or self.acknowledged:
            super().reject(requeue)
        else:
            self._quarantine(lambda: self._on_reject(logger, self._connection_errors, False))
            self.send_event("task-rejected", requeue=False)

    def _verdict_on(self, exc_info: Any, error: BaseException) -> Verdict | None:
        """What the place where the code ran said; of what it cannot have said, what is known here."""
        if isinstance(error, (Ignore, Reject, Retry, Terminated)) or self._already_cancelled or self._already_revoked:
            return None
        if isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt)):
            deaths = self._deaths()
            reason = Reason.POISON if deaths > 1 else Reason.LOST
            return Verdict(reason, f"the process that ran it died: {describe(error)}")
        if getattr(exc_info, "internal", False):
            return Verdict(Reason.INTERNAL_ERROR, describe(error))
        return arrived(exc_info)

    def _judged(self, verdict: Verdict | None) -> Verdict | None:
        resilience = getattr(self.app, "resilience", None)
        if self._quarantined or verdict is None or resilience is None or not resilience.exits.on:
            return None
        if stops_cold():
            return None  # a cold shutdown kills what still runs
        return verdict if verdict.counts(resilience.settings.quarantine_abandoned) else None

    def _deaths(self) -> int:
        retries = self.request_dict.get("retries")
        return (retries if isinstance(retries, int) else 0) + 1

    def _quarantine(self, settle: Callable[[], object]) -> None:
        verdict, self._verdict = self._verdict, None
        assert verdict is not None
        comes_again = not self.acknowledged
        self._quarantined = self.acknowledged = True  # for whoever asks: it is settled as soon as the quarantine has it
        exits = self.app.resilience.exits
        deaths = self._deaths() if verdict.reason in (Reason.POISON, Reason.LOST) else 0
        arrival = exits.of_message(self.message, verdict.reason, verdict.detail, error=verdict.error, deaths=deaths)
        exits.leave(arrival, settle, comes_again)

    def _quarantine_if_acknowledged_before(self) -> None:
        """A task that is acknowledged early; one that is not acknowledged at all will run again."""
        if self._verdict is not None and self.acknowledged:
            self._quarantine(lambda: None)
        self._verdict = None

    def _observe(self, error: BaseException | None) -> None:
        """Tell once how the attempt ended, if it began: by `error`, or, when it was stopped on purpose, by nothing."""
        resilience = getattr(self.app, "resilience", None)
        if resilience is None or self._observed or self.time_start is None:
            return
        self._observed = True
        if stops_cold():
            error = None  # a cold shutdown kills what still runs
        retries = self.request_dict.get("retries")
        attempt = Attempt(
            task=self.task.name,
            task_id=self.id,
            attempt=(retries if isinstance(retries, int) else 0) + 1,
            result=Result.NOTHING if error is None else Result.FAILURE,
            error=error,
            runtime_s=max(0.0, time.time() - self.time_start),
        )
        resilience.runner.observe_lost(attempt, self.request_dict)


def _may_run_again(task: Any) -> bool:
    """The task's own word, else the app's; else only tasks that are acknowledged late: the others run at most once."""
    if task.retry_on_worker_lost != BY_THE_MIDDLEWARE:
        return bool(task.retry_on_worker_lost)
    given = given_by_user(task.app.conf, "task_retry_on_worker_lost")
    return bool(given) if given is not None else bool(task.acks_late and task.app.resilience.settings.enabled)
