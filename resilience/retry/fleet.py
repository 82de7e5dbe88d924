"""The retry budgets of the whole fleet: each process counts its calls here, and asks Redis before it retries."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from resilience.breaker.policy import check_name
from resilience.retry import budget
from resilience.retry.budget import WINDOW_S, Budget, BudgetRule

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers

_SCRIPT = "budget.lua"


class RetryBudgets:
    """One retry budget per circuit, shared by every process of a namespace. Thread-safe and fork-safe.

    Get it with `RetryBudgets.of(breakers)`. Calls wait for company up to half a second, until the watcher of the
    breakers sends them; a retry is asked for at once. While Redis is away each process has a budget of its own.
    """

    def __init__(self, breakers: Breakers) -> None:
        self.rule = BudgetRule()
        self._breakers = breakers
        self._shared = breakers.shared
        self._shared.load(__package__, _SCRIPT)
        self._waiting: dict[str, tuple[float, int]]
        self._own: dict[str, Budget]
        self.begin_in_child()

    @classmethod
    def of(cls, breakers: Breakers, rule: BudgetRule | None = None) -> RetryBudgets:
        """The budgets that go with these breakers, always the same ones; with `rule`, by that rule from now on."""
        budgets = breakers.companion(cls)
        if rule is not None:
            budgets.rule = rule
        return budgets

    def called(self, circuit: str) -> None:
        """Count a first attempt, once for a task or a call however often it is retried. No I/O."""
        with self._lock:
            waiting = self._waiting.get(circuit)
            if waiting is None:
                self._waiting[check_name(circuit)] = (time.monotonic(), 1)
            else:
                self._waiting[circuit] = (waiting[0], waiting[1] + 1)

    def may_retry(self, circuit: str) -> bool:
        """Spend one retry of the circuit's budget; False when nothing is left. One round trip, a bounded wait.

        Never raises for Redis: while it is away, this process asks a budget of its own.
        """
        check_name(circuit)
        with self._lock:
            waiting = self._waiting.pop(circuit, None)
        calls = _recent(waiting) if waiting is not None else 0
        return self._breakers.link.ask(
            lambda: bool(self._shared.run(_SCRIPT, *self._command(circuit, calls, ask=True))[0]),
            lambda: self._alone(circuit, calls, ask=True),
        )

    def flush(self) -> None:
        """Send the calls that wait, all circuits in one round trip; nothing when none waits."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        calls = {circuit: _recent(row) for circuit, row in waiting.items()}
        if calls:
            self._breakers.link.ask(lambda: self._count_shared(calls), lambda: self._count_alone(calls))

    def begin_in_child(self) -> None:
        """Begin with nothing: what waited in the parent is the parent's to send."""
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too
        self._waiting = {}
        self._own = {}

    def _command(self, circuit: str, calls: int, ask: bool) -> tuple[list[str], list[str | int | float]]:
        key = f"{self._shared.prefix}:budget:{circuit}"
        return [key], ["", calls, int(ask), self.rule.ratio, self.rule.per_s]

    def _count_shared(self, calls: dict[str, int]) -> None:
        self._shared.run_many(_SCRIPT, [self._command(circuit, count, ask=False) for circuit, count in calls.items()])

    def _count_alone(self, calls: dict[str, int]) -> None:
        for circuit, count in calls.items():
            self._alone(circuit, count, ask=False)

    def _alone(self, circuit: str, calls: int, ask: bool) -> bool:
        now_ms = int(time.monotonic() * 1000)
        with self._lock:
            own = budget.count(self._own.get(circuit, Budget()), calls, now_ms)
            own, granted = budget.ask(own, self.rule, now_ms) if ask else (own, False)
            self._own[circuit] = own
        return granted


def _recent(waiting: tuple[float, int]) -> int:
    """How many of the calls that waited belong to the window.

    Without a watcher, as where no circuit is used, calls may have waited for hours: then the window's share of them.
    """
    since, count = waiting
    return round(count * min(1.0, WINDOW_S / max(WINDOW_S, time.monotonic() - since)))
