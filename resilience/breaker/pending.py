"""Successes that wait for company, so that a busy circuit costs a command per tenth of a second, not per call."""

from __future__ import annotations

import itertools
import math
import threading
import time

FLUSH_AFTER_S = 0.1
AT_ONCE = 10
"""Reports in FLUSH_AFTER_S that callers send themselves: a process that uses many circuits does not pay for each."""


class Tally:
    """Successes of one circuit under one epoch. All but `count_one` is for who holds the lock of its `Pending`."""

    __slots__ = ("_seen", "count_one", "epoch", "looked_at", "slow", "slow_after_s")

    def __init__(self, epoch: int, looked_at: float) -> None:
        self.epoch = epoch
        self.looked_at = looked_at
        self.slow = 0
        self.slow_after_s = math.inf
        self.count_one = itertools.count().__next__  # one step of the interpreter: threads need no lock to lose none
        self._seen = 0

    def take(self) -> tuple[int, int]:
        """How many there were since the last time, and the slow ones among them."""
        ticks = self.count_one()  # to look is one tick, too
        count, self._seen = ticks - self._seen, ticks + 1
        slow, self.slow = self.slow, 0
        return count, slow


class Pending:
    """Per circuit: the epoch, how many successes, and how many of them were slow. Thread-safe."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._since = -math.inf
        self._sent = 0
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too

    def joins(self, name: str, epoch: int, runtime_s: float | None) -> bool:
        """Count a success that waits with others of its epoch; False, and nothing done, where `add` has to look."""
        tally = self._tallies.get(name)
        if (
            tally is None
            or tally.epoch != epoch
            or (runtime_s is not None and runtime_s > tally.slow_after_s)
            or time.monotonic() - tally.looked_at >= FLUSH_AFTER_S
        ):
            return False
        tally.count_one()
        return True

    def add(self, name: str, epoch: int, slow: bool, slow_after_s: float | None) -> tuple[int, int] | None:
        """Count a success. Returns the successes to send now, and the slow ones among them; None: not yet.

        Until the next `add`, `joins` takes those that took `slow_after_s` at most; None: however long.
        """
        now = time.monotonic()
        with self._lock:
            tally = self._tally(name, epoch)
            tally.slow_after_s = math.inf if slow_after_s is None else slow_after_s
            tally.slow += slow
            tally.count_one()
            if now - tally.looked_at < FLUSH_AFTER_S:
                return None
            tally.looked_at = now
            return tally.take() if self._may_send(now) else None

    def take(self, name: str, epoch: int) -> tuple[int, int]:
        """The successes that wait under `epoch`, and the slow ones among them, to travel with a failure."""
        with self._lock:
            tally = self._tally(name, epoch)
            tally.looked_at = time.monotonic()
            return tally.take()

    def take_all(self) -> dict[str, tuple[int, int, int]]:
        """Everything that waits: epoch, successes, slow ones, by circuit."""
        with self._lock:
            taken = {name: (tally.epoch, *tally.take()) for name, tally in self._tallies.items()}
        return {name: waiting for name, waiting in taken.items() if waiting[1]}

    def _tally(self, name: str, epoch: int) -> Tally:
        """The circuit's tally for this epoch; what waits under another one nobody would count any more."""
        tally = self._tallies.get(name)
        if tally is None or tally.epoch != epoch:
            tally = self._tallies[name] = Tally(epoch, -math.inf if tally is None else tally.looked_at)
        return tally

    def _may_send(self, now: float) -> bool:
        """Whether the caller is one of the few who report at once; the others' successes wait for `take_all`."""
        if now - self._since >= FLUSH_AFTER_S:
            self._since, self._sent = now, 0
        self._sent += 1
        return self._sent <= AT_ONCE
