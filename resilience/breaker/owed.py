"""What the store has not heard of half-open permits: it would wait for their probes until each lease is over.

A probe whose outcome was counted alone, because the store was away, is over; and who asked for a permit and got no
answer may have been given one when the store came back. Both are told as soon as it answers again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from resilience.breaker.machine import Outcome
from resilience.identity import owner

_NO_EPOCH = -1
"""Of an outcome that only gives its permit back, whatever the circuit did since."""

MOST = 1_000
"""Words kept. More calls than that may be told alone while a store is away, but only the first of them reached it."""


class Owed:
    """Outcomes by circuit and permit; thread-safe."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too

    def __bool__(self) -> bool:
        return bool(self._outcomes)

    def note(self, name: str, outcome: Outcome) -> None:
        """The store did not hear this; nothing for an outcome without a permit."""
        if not outcome.permit:
            return
        with self._lock:
            if len(self._outcomes) < MOST:
                self._outcomes[name, outcome.permit] = outcome

    def give_back(self, name: str, permit: str) -> None:
        """The store may count this permit as held: nobody uses it any more. Nothing for "", which is no permit."""
        self.note(name, Outcome(_NO_EPOCH, owner(), permit=permit))

    def take(self, epoch: Callable[[str], int]) -> list[tuple[str, Outcome]]:
        """All of them, by circuit; `epoch` gives the one that the store has a circuit in now."""
        with self._lock:
            taken, self._outcomes = self._outcomes, {}
        return [
            (name, replace(outcome, epoch=epoch(name)) if outcome.epoch == _NO_EPOCH else outcome)
            for (name, _), outcome in taken.items()
        ]
