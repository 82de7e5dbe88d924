"""Where a task may run: its home queue, then its fallback levels; and the record of the moves it made. Pure.

The record travels in one message header, `celeriac`: home queue, current level (0 is home), the retries already
spent when it came to this level, and the hops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

HEADER = "celeriac"
KEPT_HOPS = 16
MAX_HOPS = 8


@dataclass(frozen=True)
class Plan:
    """A task's circuit and the queues of its fallback levels, in order. `levels[0]` is level 1.

    `deadline_s`: a task must begin within so many seconds after it was due. `user_facing`: somebody waits for it.
    """

    circuit: str
    levels: tuple[str, ...] = ()
    deadline_s: float | None = None
    user_facing: bool = False

    def circuit_at(self, level: int) -> str:
        """Each level has a circuit of its own: `name`, `name@queue`."""
        return self.circuit if level == 0 else f"{self.circuit}@{self.levels[level - 1]}"

    def queue_at(self, level: int, home: str) -> str:
        return home if level == 0 else self.levels[level - 1]


@dataclass(frozen=True)
class Hop:
    origin: str
    destination: str
    reason: str
    level: int


@dataclass(frozen=True)
class Journey:
    """Where a message belongs, where it is, and how it came there."""

    home: str
    level: int = 0
    spent: int = 0
    hops: tuple[Hop, ...] = ()
    hop_count: int = 0

    def moved(self, origin: str, destination: str, reason: str, level: int, retries: int) -> Journey:
        hop = Hop(origin, destination, reason, level)
        spent = retries if level != self.level else self.spent
        return replace(
            self,
            level=level,
            spent=spent,
            hops=(*self.hops, hop)[-KEPT_HOPS:],
            hop_count=self.hop_count + (level != self.level),
        )

    def header(self) -> dict[str, Any]:
        """JSON-ready value of the header."""
        return {
            "home": self.home,
            "level": self.level,
            "spent": self.spent,
            "hops": [[hop.origin, hop.destination, hop.reason, hop.level] for hop in self.hops],
            "hop_count": self.hop_count,
        }


def journey_of(headers: Mapping[str, Any] | None, queue: str) -> Journey:
    """The journey written in a message's headers; without one, or a usable one, it is at home in `queue`."""
    raw: Any = (headers or {}).get(HEADER)
    if raw is None:
        return Journey(queue)
    try:
        hops = tuple(Hop(str(o), str(d), str(r), int(level)) for o, d, r, level in raw["hops"][-KEPT_HOPS:])
        journey = Journey(str(raw["home"]), int(raw["level"]), int(raw["spent"]), hops, int(raw["hop_count"]))
        usable = isinstance(raw["home"], str) and raw["home"] != ""
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return Journey(queue)
    usable = usable and min(journey.level, journey.spent, journey.hop_count) >= 0
    return journey if usable else Journey(queue)


def level_in(plan: Plan, journey: Journey) -> int:
    """The journey's level, 0 when the plan knows no such level (the code changed since the message was sent)."""
    return journey.level if journey.level <= len(plan.levels) else 0


def choose_level(plan: Plan, may_pass: Callable[[str], bool], first: int = 0) -> int | None:
    """The first level from `first` on whose circuit lets calls pass, or None when none does."""
    for level in range(first, len(plan.levels) + 1):
        if may_pass(plan.circuit_at(level)):
            return level
    return None


@dataclass(frozen=True)
class Detour:
    """Where a message goes instead, and its journey with that hop."""

    queue: str
    journey: Journey


def detour(
    plan: Plan,
    journey: Journey,
    here: str,
    reason: str,
    retries: int,
    may_pass: Callable[[str], bool],
    park: Callable[[str, str], str] | None,
) -> Detour | None:
    """The way round a circuit that refused: the first other level that lets calls pass, else the parking place.

    `park(home, circuit)` names the parking queue; None where nothing can be parked: then there may be no way (None).
    """
    current = level_in(plan, journey)
    if journey.hop_count < MAX_HOPS:
        for level in range(len(plan.levels) + 1):
            if level != current and may_pass(plan.circuit_at(level)):
                queue = plan.queue_at(level, journey.home)
                return Detour(queue, journey.moved(here, queue, reason, level, retries))
    if park is None:
        return None
    queue = park(journey.home, plan.circuit)
    return Detour(queue, journey.moved(here, queue, f"{reason}, no level healthy: parked", 0, retries))
