"""Carries out what takes time in a recovery: frees resources here, has workers act, ends what others left half done.

Redis away changes nothing of what is done in this process; it is then not written down, and no worker can be asked.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from resilience.identity import owner
from resilience.recovery.decide import WorkerAction
from resilience.recovery.ledger import Cause, Count, Ledger, Recovery
from resilience.recovery.tally import Tally
from resilience.shared_redis import STORE_ERRORS
from signals.events import RecoveryEnded, RecoveryStarted
from signals.redact import describe, redact

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers
    from signals.bus import Bus

FREE_RESOURCES = "free_resources"
ASK_AGAIN_S = 1.0
"""So long after it asked for something for a worker, a process does not ask for the same again."""
BEGIN_AGAIN_S = 60.0
"""So long after something was begun with a worker, the same is not begun again, whoever asks."""
SAY_EVERY_S = 60.0

Hook = Callable[[], object]

logger = logging.getLogger("celeriac")


class Recoveries:
    """One per app and process. `res.recoveries`: what is under way in the fleet, and how often what helped.

    `hooks` free resources of this process.
    """

    def __init__(self, breakers: Breakers, bus: Bus, hooks: Sequence[Hook]) -> None:
        self._breakers = breakers
        self._bus = bus
        self._hooks = hooks
        self.ledger = Ledger(breakers.shared)
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._freeing = threading.Lock()
        self._freed_at = 0.0
        self._freer: threading.Thread | None = None
        self._asked: dict[str, float] = {}
        self._said_at = 0.0

    @cached_property
    def tally(self) -> Tally:
        """What this process counts: the one that goes with these circuits."""
        return self._breakers.companion(Tally)

    def active(self) -> list[Recovery]:
        """What is under way in the whole fleet, oldest first. Raises STORE_ERRORS while Redis is away."""
        return self.ledger.active()

    def counts(self) -> list[Count]:
        """How often each strategy was tried for each category, and how it ended. Raises STORE_ERRORS."""
        self._breakers.flush()
        return self.ledger.counts()

    # -- free resources ----------------------------------------------------------------------------------------

    def free_resources(self, cause: Cause, budget_s: float) -> bool:
        """Call the hooks, collect garbage; at most `budget_s` seconds. Never raises.

        Threads that fail together free once. False if a hook failed or was not ready in time: it goes on by itself.
        """
        asked_at = time.monotonic()
        if not self._freeing.acquire(timeout=budget_s):
            return False
        try:
            if self._freed_at > asked_at:
                return True
            done = self._written_down(cause, budget_s)
            self._freed_at = time.monotonic()
            return done
        finally:
            self._freeing.release()

    def _written_down(self, cause: Cause, budget_s: float) -> bool:
        recovery_id, by = f"free:{owner()}:{os.getpid()}", f"{owner()}/{os.getpid()}"
        known = self._try(
            lambda: self.ledger.begin(recovery_id, FREE_RESOURCES, cause, budget_s, by, by, worker=owner())
        )
        self._tell_started(recovery_id, FREE_RESOURCES, cause, owner(), budget_s)
        began = time.monotonic()
        trouble = self._free(budget_s)
        if known == 1:
            self._try(lambda: self.ledger.end(recovery_id, by, FREE_RESOURCES, cause.category, not trouble))
        else:
            self.tally.initiated(FREE_RESOURCES, cause.category)
            self.tally.ended(FREE_RESOURCES, cause.category, not trouble)
        self._tell_ended(recovery_id, FREE_RESOURCES, cause, owner(), time.monotonic() - began, trouble)
        return not trouble

    def _free(self, budget_s: float) -> str:
        """What went wrong, "" if nothing did."""
        if self._freer is not None and self._freer.is_alive():
            return "a hook that was called earlier is not done yet"
        troubles: list[str] = []

        def run() -> None:
            for hook in (*self._hooks, gc.collect):
                try:
                    hook()
                except Exception as error:  # noqa: BLE001, PERF203  each hook is on its own
                    troubles.append(f"{getattr(hook, '__qualname__', hook)} failed: {describe(error)}")

        self._freer = thread = threading.Thread(target=run, name="celeriac-free", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no thread to be had, which may be what there is too little of
            gc.collect()
            return f"the hooks were not called: {describe(error)}"
        thread.join(budget_s)
        return f"not done within {budget_s:g} s" if thread.is_alive() else "; ".join(troubles)

    # -- workers -----------------------------------------------------------------------------------------------

    def ask(self, action: WorkerAction, worker: str, cause: Cause, budget_s: float) -> bool:
        """Have `worker` do this to itself: its pulse finds it written down. False: it is under way, began in the last
        minute, or Redis is away. Never raises; one round trip, at most once in a second for the same.
        """
        now, recovery_id = time.monotonic(), f"worker:{worker}"
        asked = f"{recovery_id}:{action.value}"
        if now - self._asked.get(asked, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        self._asked[asked] = now
        reply = self._try(lambda: self.ledger.begin(
            recovery_id, action.value, cause, budget_s, owner(), worker=worker, again_s=BEGIN_AGAIN_S
        ))  # fmt: skip
        if reply == 1:
            self._tell_started(recovery_id, action.value, cause, worker, budget_s)
        elif reply == -1:
            self._say("too many recoveries are under way, %s of %s is not begun", action.value, worker)
        return reply == 1

    def end(self, recovery: Recovery, by: str, trouble: str = "", took_s: float | None = None) -> bool:
        """End what `by` carries out: it failed if there was `trouble`. False if it is not its any more.

        `took_s`: since it began, by default what `recovery` says.
        """
        ended = self.ledger.end(recovery.id, by, recovery.strategy, recovery.category, not trouble)
        if ended:
            took_s = recovery.now - recovery.since if took_s is None else took_s
            self._tell_ended(recovery.id, recovery.strategy, recovery.cause, recovery.worker, took_s, trouble)
        return ended

    def give_up_for(self, recovery: Recovery, me: str, why: str) -> bool:
        """End what somebody else began and does not carry out any more; once, whoever else tries.

        A worker that was to leave and is gone has left.
        """
        if not self.ledger.take(recovery, me, "taken over"):
            return False
        gone = recovery.strategy in (WorkerAction.REMOVE.value, WorkerAction.REPLACE.value) and why == DIED
        return self.end(recovery, me, "" if gone else why)

    # -- words -------------------------------------------------------------------------------------------------

    def _try(self, call: Callable[[], int]) -> int | None:
        try:
            return call()
        except STORE_ERRORS as error:
            self._say("a recovery is not written down, Redis is away: %s", describe(error))
            return None

    def _say(self, sentence: str, *words: str) -> None:
        if time.monotonic() - self._said_at > SAY_EVERY_S or not self._said_at:
            self._said_at = time.monotonic()
            logger.warning(f"celeriac: {sentence}", *words)

    def _tell_started(self, recovery_id: str, strategy: str, cause: Cause, worker: str, budget_s: float) -> None:
        self._bus.publish(RecoveryStarted(
            recovery_id, strategy, cause.category, cause.severity, cause.task_id, cause.task, worker, cause.circuit,
            budget_s, redact(cause.why),
        ))  # fmt: skip

    def _tell_ended(
        self, recovery_id: str, strategy: str, cause: Cause, worker: str, took_s: float, trouble: str
    ) -> None:
        self._bus.publish(RecoveryEnded(
            recovery_id, strategy, cause.category, cause.task_id, cause.task, worker, not trouble, round(took_s, 3),
            redact(trouble),
        ))  # fmt: skip


DIED = "the process that carried it out died"
"""Why a recovery is taken over from a worker that is found dead."""
