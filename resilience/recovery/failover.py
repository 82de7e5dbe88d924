"""Where a task may run: its home queue, then its fallback levels; and the record of the moves it made. Pure.

The record travels in one message header, `celeriac`: home queue, the task that was sent if another may stand in for
it, current level (0 is home), the retries already spent when it came to this level, and the hops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

HEADER = "celeriac"
KEPT_HOPS = 16
MAX_HOPS = 8


class OnOpen(str, Enum):
    """What becomes of a task whose circuit is open."""

    FAILOVER = "failover"
    """It goes to its first healthy level; without one it is parked."""
    PARK = "park"
    """It waits in the parking place, whatever levels there are."""
    FAIL = "fail"
    """It fails with CircuitOpenError."""


@dataclass(frozen=True)
class Level:
    """A fallback level: the same task on another `queue`, or another `task`, on `queue` or, without one, at home."""

    queue: str = ""
    task: str = ""

    @property
    def name(self) -> str:
        """What its circuit is named by, after the @."""
        return "@".join(part for part in (self.task, self.queue) if part)


@dataclass(frozen=True)
class Plan:
    """A task's circuit and its fallback levels, in order. `levels[0]` is level 1.

    `deadline_s`: a task must begin within so many seconds after it was due. `user_facing`: somebody waits for it.
    """

    circuit: str
    levels: tuple[Level, ...] = ()
    deadline_s: float | None = None
    user_facing: bool = False
    on_open: OnOpen = OnOpen.FAILOVER

    def circuit_at(self, level: int) -> str:
        """Each level has a circuit of its own: `name`, `name@queue`, `name@task`."""
        return self.circuit if level == 0 else f"{self.circuit}@{self.levels[level - 1].name}"

    def queue_at(self, level: int, home: str) -> str:
        return home if level == 0 else self.levels[level - 1].queue or home

    def task_at(self, level: int, original: str) -> str:
        """The name under which `original` runs on a level."""
        return original if level == 0 else self.levels[level - 1].task or original

    def place_at(self, level: int, home: str) -> str:
        """A level as people read it in a record of hops."""
        task, queue = self.task_at(level, ""), self.queue_at(level, home)
        return f"{task} on {queue}" if task else queue

    def has_substitute(self, task: str) -> bool:
        """Whether `task` stands in on one of the levels."""
        return any(level.task == task for level in self.levels)


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
    task: str = ""
    """The task that was sent, noted as soon as another stands in for it; "" if none ever did."""

    def moved(self, origin: str, destination: str, reason: str, level: int, retries: int) -> Journey:
        hop = Hop(origin, destination, reason, level)
        spent = max(0, retries) if level != self.level else self.spent  # a message may claim a negative number
        return replace(
            self,
            level=level,
            spent=spent,
            hops=(*self.hops, hop)[-KEPT_HOPS:],
            hop_count=self.hop_count + (level != self.level),
        )

    def header(self) -> dict[str, Any]:
        """JSON-ready value of the header."""
        sent = {"task": self.task} if self.task else {}
        return {
            "home": self.home,
            **sent,
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
        home, task = raw["home"], raw.get("task", "")
        journey = Journey(str(home), int(raw["level"]), int(raw["spent"]), hops, int(raw["hop_count"]), str(task))
        usable = isinstance(home, str) and home.encode() != b"" and isinstance(task, str)  # it names a list in Redis
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError):
        return Journey(queue)
    usable = usable and min(journey.level, journey.spent, journey.hop_count) >= 0
    return journey if usable else Journey(queue)


def level_in(plan: Plan, journey: Journey) -> int:
    """The journey's level, 0 when the plan knows no such level (the code changed since the message was sent)."""
    return journey.level if journey.level <= len(plan.levels) else 0


def every(_level: Level) -> bool:
    """All levels can be used."""
    return True


def by_queue(level: Level) -> bool:
    """Those that can be used by a message of protocol 1: it has its name in its body, so no task can stand in."""
    return not level.task


def choose_level(
    plan: Plan,
    may_pass: Callable[[str], bool],
    first: int = 0,
    usable: Callable[[Level], bool] = every,
    but: int | None = None,
) -> int | None:
    """The first usable level from `first` on, other than `but`, whose circuit lets calls pass; None when none does.

    No circuit is asked about a level that is not to be taken: where a probe is due, the answer is its pass.
    """
    for level in range(first, len(plan.levels) + 1):
        can_go = level != but and (level == 0 or usable(plan.levels[level - 1]))
        if can_go and may_pass(plan.circuit_at(level)):
            return level
    return None


def level_to_send_to(
    plan: Plan, journey: Journey, may_pass: Callable[[str], bool], usable: Callable[[Level], bool] = every
) -> int:
    """Where a message goes that is being sent. Home if nothing is healthy: there it is parked, or fails."""
    if plan.on_open is OnOpen.FAILOVER:
        return choose_level(plan, may_pass, 0, usable) or 0
    was = level_in(plan, journey)  # a failure brought it there, not an open circuit
    return was if was and not may_pass(plan.circuit) and may_pass(plan.circuit_at(was)) else 0


@dataclass(frozen=True)
class Detour:
    """Where a message goes instead, the task that runs there, and its journey with that hop."""

    queue: str
    task: str
    journey: Journey


def moved_to(plan: Plan, journey: Journey, task: str, level: int, here: str, reason: str, retries: int) -> Detour:
    """The move of a message, which names `task` now, from the queue `here` to a level."""
    original = journey.task or task
    moved = journey.moved(here, plan.place_at(level, journey.home), reason, level, retries)
    target = plan.task_at(level, original)
    if target != original:
        moved = replace(moved, task=original)
    return Detour(plan.queue_at(level, journey.home), target, moved)


def detour(
    plan: Plan,
    journey: Journey,
    task: str,
    here: str,
    reason: str,
    retries: int,
    may_pass: Callable[[str], bool],
    park: Callable[[str, str], str] | None,
    usable: Callable[[Level], bool] = every,
) -> Detour | None:
    """The way round a circuit that refused: the first other level that lets calls pass, else the parking place.

    `task` is the one that the message names. `park(home, circuit)` names the parking queue; None where nothing can be
    parked: then there may be no way (None).
    """
    current = level_in(plan, journey)
    if journey.hop_count < MAX_HOPS and plan.on_open is OnOpen.FAILOVER:
        level = choose_level(plan, may_pass, usable=usable, but=current)
        if level is not None:
            return moved_to(plan, journey, task, level, here, reason, retries)
    if park is None:
        return None
    queue = park(journey.home, plan.circuit)
    why = f"{reason}: parked" if plan.on_open is OnOpen.PARK else f"{reason}, no level healthy: parked"
    return Detour(queue, journey.task or task, journey.moved(here, queue, why, 0, retries))
