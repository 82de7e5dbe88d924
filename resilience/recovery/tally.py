"""What a process counts and notices of failures by itself, and tells the fleet with the circuits' next flush.

So a plain retry costs no round trip. Failures in a row say what a worker suffers from; the answer to a report says
whether the other workers of the queue suffer from the same.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilience.identity import owner
from resilience.recovery.decide import WorkerView
from resilience.recovery.ledger import FAILED, INITIATED, REPORT_S, SUCCEEDED, Ledger, count_name
from resilience.shared_redis import STORE_ERRORS

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers

REPORTED_FROM = 2
"""Failures in a row from which a worker counts as affected: one happens to everybody."""
SETTLED_S = 2.0
"""So long after a worker's first report the others have said that they are there, and told theirs."""
WAITING = 1_000
"""Names of counts that wait while Redis is away; there are fewer."""


@dataclass
class _Trouble:
    """Failures in a row of one category through one circuit, as this process sees them."""

    queue: str
    streak: int
    at: float
    untold: bool = True
    others: int = 0
    others_affected: int = 0
    reconnect_at: int | None = None
    told_at: float | None = None
    settled: bool = False


class Tally:
    """One per set of breakers, told to the fleet twice a second. Thread-safe and fork-safe; a call makes no I/O."""

    def __init__(self, breakers: Breakers) -> None:
        self._ledger = Ledger(breakers.shared)
        self._breakers = breakers
        self.begin_in_child()

    def begin_in_child(self) -> None:
        """Begin with nothing: what waited in the parent is the parent's to send."""
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._troubles: dict[tuple[str, str], _Trouble] = {}
        self._over: set[tuple[str, str, str]] = set()

    # -- counts ------------------------------------------------------------------------------------------------

    def initiated(self, strategy: str, category: str) -> None:
        self._count(INITIATED, strategy, category)

    def ended(self, strategy: str, category: str, succeeded: bool) -> None:
        self._count(SUCCEEDED if succeeded else FAILED, strategy, category)

    def _count(self, what: str, strategy: str, category: str) -> None:
        with self._lock:
            self._counts[count_name(what, strategy, category)] += 1

    # -- failures in a row -------------------------------------------------------------------------------------

    @property
    def in_trouble(self) -> bool:
        return bool(self._troubles)

    def failed(self, circuit: str, category: str, queue: str) -> WorkerView:
        """One more failure of a task of `queue`, "" if that is no queue of this worker; how things stand by now.

        No streak is told while other workers may have the same trouble and not have said so yet.
        """
        now = time.monotonic()
        with self._lock:
            trouble = self._troubles.get((circuit, category))
            if trouble is None or now - trouble.at > REPORT_S:
                trouble = self._troubles[circuit, category] = _Trouble(queue, 0, now)
            trouble.streak, trouble.at, trouble.untold = trouble.streak + 1, now, True
            since = None if trouble.reconnect_at is None else trouble.streak - trouble.reconnect_at
            streak = trouble.streak if trouble.settled else 0
            return WorkerView(streak, trouble.others, trouble.others_affected, since_reconnect=since)

    def reconnects(self, circuit: str, category: str) -> None:
        """This worker was told to connect anew because of these failures."""
        with self._lock:
            trouble = self._troubles.get((circuit, category))
            if trouble is not None and trouble.reconnect_at is None:
                trouble.reconnect_at = trouble.streak

    def succeeded(self, circuit: str) -> None:
        """A call through `circuit` ended well: no failure in a row is left."""
        with self._lock:
            for place in [place for place in self._troubles if place[0] == circuit]:
                trouble = self._troubles.pop(place)
                if trouble.queue and trouble.streak >= REPORTED_FROM:
                    self._over.add((*place, trouble.queue))

    # -- to the fleet ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Tell what waits; while Redis is away it goes on waiting."""
        if not (self._counts or self._troubles or self._over):
            return
        with self._lock:
            counts, self._counts = self._counts, Counter()
            over, self._over = self._over, set()
            told = {
                place: trouble for place, trouble in self._troubles.items()
                if trouble.queue and trouble.streak >= REPORTED_FROM and (trouble.untold or not trouble.settled)
            }  # fmt: skip
            for trouble in told.values():
                trouble.untold = False
        try:
            if counts:
                self._ledger.add(counts)
                counts = Counter()
            self._tell(told, over)
        except STORE_ERRORS:
            with self._lock:
                if len(self._counts) < WAITING:
                    self._counts.update(counts)
                self._over |= over
                for trouble in told.values():
                    trouble.untold = True

    def _tell(self, told: dict[tuple[str, str], _Trouble], over: set[tuple[str, str, str]]) -> None:
        reports = [(*place, trouble.queue, True) for place, trouble in told.items()]
        reports += [(*place, False) for place in over]
        if not reports:
            return
        answers = self._ledger.report(owner(), reports)
        now = time.monotonic()
        for trouble, (others, affected) in zip(told.values(), answers, strict=False):
            trouble.others, trouble.others_affected = others, affected
            trouble.told_at = now if trouble.told_at is None else trouble.told_at
            trouble.settled = now - trouble.told_at >= SETTLED_S
