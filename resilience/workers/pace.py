"""Whether the calls of a pool of threads run one by one, or each at once in a thread of its own. Pure."""

from __future__ import annotations

JUDGED_CALLS = 32
"""Calls that are judged together: few, to notice soon that they wait; many, to bear a hiccup of the machine."""

WAIT_S = 0.0002
"""From this average wait on, threads beside the one that waits gain more than changing from one to another costs."""

LONG_S = 0.0005
"""The same of a whole call, since what a library computes without the interpreter's lock is no wait."""

FIRST_SPELL_S, LONGEST_SPELL_S = 0.05, 60.0
"""How long calls run at once before it is tried again one by one; twice as long each time that this fails soon."""

SOON_S = 1.0
"""It failed soon if it lasted no longer."""


class Pace:
    """One by one until calls turn out to wait, then at once for a spell. `now_s` is of any clock that only rises."""

    def __init__(self) -> None:
        self.one_by_one = True
        self._since_s = self._until_s = 0.0
        self._spell_s = FIRST_SPELL_S
        self._calls = 0
        self._took_s = self._busy_s = 0.0

    def at(self, now_s: float) -> bool:
        """Whether calls run one by one from now on."""
        if not self.one_by_one and now_s >= self._until_s:
            self._since_s = now_s
            self._count_anew()
            self.one_by_one = True
        return self.one_by_one

    def ran(self, calls: int, took_s: float, busy_s: float, now_s: float) -> None:
        """So many calls took so long, one after the other, and of that so much processor time."""
        if not self.one_by_one:
            return
        self._calls += calls
        self._took_s += took_s
        self._busy_s += busy_s
        if self._took_s - self._busy_s > JUDGED_CALLS * WAIT_S or self._took_s > JUDGED_CALLS * LONG_S:
            self.one_waited(now_s)
        elif self._calls >= JUDGED_CALLS:
            self._count_anew()

    def one_waited(self, now_s: float) -> None:
        """A call stood in line for nothing."""
        if self.one_by_one:
            failed_soon = now_s - self._since_s < SOON_S
            self._spell_s = min(2 * self._spell_s, LONGEST_SPELL_S) if failed_soon else FIRST_SPELL_S
            self._until_s = now_s + self._spell_s
            self.one_by_one = False

    def _count_anew(self) -> None:
        self._calls = 0
        self._took_s = self._busy_s = 0.0
