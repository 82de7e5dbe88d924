"""How many retries a circuit can afford, as pure functions over a value. `budget.lua` is its twin on the server.

Time is an argument in milliseconds. The window is the last ten seconds, in buckets of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BUCKETS = 10
BUCKET_MS = 1_000
WINDOW_S = 10.0


@dataclass(frozen=True)
class BudgetRule:
    """Retries may be at most `ratio` of recent calls; `per_s` of them a second are always allowed.

    Raises ValueError for a number that is negative or not finite.
    """

    ratio: float = 0.2
    per_s: float = 3.0

    def __post_init__(self) -> None:
        for name in ("ratio", "per_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"retry budget: {name} is {value!r}, but 0 or more is right")

    def limit(self, calls: int) -> float:
        """Retries that a window with so many calls affords."""
        return max(self.ratio * calls, self.per_s * WINDOW_S)


_EMPTY = (0,) * BUCKETS


@dataclass(frozen=True)
class Budget:
    """Calls and retries per bucket of time; `head` is the number (time // width) of the newest bucket.

    A call is one unit of work, however often it is retried.
    """

    head: int = 0
    calls: tuple[int, ...] = _EMPTY
    retries: tuple[int, ...] = _EMPTY


def count(budget: Budget, calls: int, now_ms: int) -> Budget:
    """The budget after so many more calls."""
    budget = _turned(budget, now_ms)
    return replace(budget, calls=_added(budget.calls, budget.head, calls))


def ask(budget: Budget, rule: BudgetRule, now_ms: int) -> tuple[Budget, bool]:
    """The budget after somebody asked for one retry, and whether it is granted."""
    turned = _turned(budget, now_ms)
    if sum(turned.retries) >= rule.limit(sum(turned.calls)):
        return budget, False
    return replace(turned, retries=_added(turned.retries, turned.head, 1)), True


def _turned(budget: Budget, now_ms: int) -> Budget:
    """The ring with its head at `now_ms`; what is older than the window is forgotten."""
    bucket = now_ms // BUCKET_MS
    if bucket < budget.head - BUCKETS:
        return Budget(bucket)  # not a clock that was set back a little: another server answers
    if bucket <= budget.head:
        return budget  # time that goes backwards counts into the newest bucket
    calls, retries = list(budget.calls), list(budget.retries)
    for passed in range(budget.head + 1, min(bucket, budget.head + BUCKETS) + 1):
        calls[passed % BUCKETS] = retries[passed % BUCKETS] = 0
    return Budget(bucket, tuple(calls), tuple(retries))


def _added(buckets: tuple[int, ...], head: int, number: int) -> tuple[int, ...]:
    at = head % BUCKETS
    return (*buckets[:at], buckets[at] + number, *buckets[at + 1 :])
