"""Which policy a circuit has in this process: given where it is used, or by the settings. Conflicts are said once."""

from __future__ import annotations

from collections.abc import Callable

from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import NUMBERS, numbers_of
from signals.bus import Bus
from signals.events import PolicyConflict


class Policies:
    """Callable by name. A policy given later wins over one given before, and over the settings."""

    def __init__(self, by_settings: Callable[[str], BreakerPolicy], bus: Bus) -> None:
        self._by_settings = by_settings
        self._bus = bus
        self._given: dict[str, BreakerPolicy] = {}
        self._said: set[tuple[str, str]] = set()

    def __call__(self, name: str) -> BreakerPolicy:
        return self._given.get(name) or self._by_settings(name)

    def give(self, name: str, policy: BreakerPolicy) -> None:
        """Use this policy for the circuit from now on."""
        former = self._given.get(name)
        self._given[name] = policy
        if former is not None and former != policy:
            self.differs(name, numbers_of(former))

    def differs(self, name: str, former: str) -> None:
        """Somebody, here or elsewhere, used the circuit with the numbers `former`: say so once."""
        if (name, former) in self._said:
            return
        self._said.add((name, former))
        mine = numbers_of(self(name)).split()
        pairs = zip(NUMBERS, former.split(), mine, strict=False)
        difference = ", ".join(f"{rule} {old} and {new}" for rule, old, new in pairs if old != new)
        self._bus.publish(PolicyConflict(name, difference or "what is recorded as a failure"))
