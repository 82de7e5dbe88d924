"""Whether the calls of a pool of threads run one by one, or each at once in a thread of its own. Pure."""

from __future__ import annotations

JUDGED_CALLS = 64
"""Calls that are judged together: few, to notice soon that they wait; many, to bear a hiccup of the machine."""

WAIT_S = 0.0002
"""From this average wait on, threads beside the one that waits gain more than changing from one to another costs."""

LONG_S = 0.0005
"""The same of a whole call, since what a library computes without the interpreter's lock is no wait."""

FIRST_SPELL_S, LONGEST_SPELL_S = 0.05, 60.0
"""How long calls run at once before it is tried again one by one; twice as long each time that this fails soon."""

SOON_S = 0.1
"""It failed soon if it lasted no longer."""

LOOK_S = 0.002
"""A call waits hardly longer behind one that waits while a thread is free, and some times that behind short waits."""

LONGEST_LOOK_S = 0.016
"""The same where calls have been short for a while: each look costs what it spares, two changes of threads."""

_IN_TIME_S = 0.001
"""A look that comes later than this came late because something else had the interpreter's lock."""

_DOUBTS = {(True, 0): 2, (True, 1): 1, (False, 0): 1}
"""What a look says of a line that stands, by whether it came in time and how many calls began since the last one."""

_SURE = 2
_QUIET_LOOKS = 5


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


class Watch:
    """Looks now and then at calls that run one by one. `look_s` after the last look the next one is due."""

    def __init__(self) -> None:
        self.look_s = LOOK_S
        self._doubts = self._quiet = 0

    @property
    def is_over(self) -> bool:
        """Nothing has stood in line for some looks."""
        return self._quiet >= _QUIET_LOOKS

    def sees_one_wait(self, *, stands: bool, began: int, late_s: float) -> bool:
        """A look, so late: whether calls stood in line at the last one and now, and how many began meanwhile."""
        doubt = _DOUBTS.get((late_s < _IN_TIME_S, began), 0) if stands else 0
        self._doubts = self._doubts + doubt if doubt else 0
        self._quiet = 0 if stands else self._quiet + 1
        if doubt:
            self.look_s = LOOK_S
        else:
            self.look_s = min(2 * self.look_s, LONGEST_LOOK_S) if stands else max(self.look_s / 2, LOOK_S)
        return self._doubts >= _SURE
