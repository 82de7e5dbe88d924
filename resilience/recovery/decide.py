"""One pure function: a classified failure and its context in, a decision out. Nothing else decides about failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from resilience.errors.classify import Classified
from resilience.errors.severity import may_retry, severity_at, time_budget_s
from resilience.errors.taxonomy import ErrorCategory, Severity, Strategy
from resilience.recovery.failover import MAX_HOPS
from resilience.retry.backoff import delay_s

LONGER = 1.5
LONGEST = 3.0
"""A retry after a timeout gets 1.5 times the time of the attempt before it, three times the usual time at most."""

Keeps = Literal["matrix", "all", "none"]
"""Which tasks that are given up go to the quarantine: see the setting `quarantine_abandoned`."""


@dataclass(frozen=True)
class WorkerView:
    """What is known of the worker where it failed, as far as it serves this queue.

    `streak`: failures of this category in a row there; `since_reconnect`: those since it was told to connect anew, None
    if it was not. `others`: live workers beside it; `others_affected`: those of
    them that report the same now. `kept`: something starts a new worker when this one ends.
    """

    streak: int = 1
    others: int = 0
    others_affected: int = 0
    kept: bool = False
    since_reconnect: int | None = None

    @property
    def stands_alone(self) -> bool:
        """Whether the trouble is this worker's own: others do the same work, and none of them has it."""
        return self.others > 0 and self.others_affected == 0

    @property
    def has_company(self) -> bool:
        """Whether all live workers of the queue have the trouble. One alone says nothing of all."""
        return 0 < self.others <= self.others_affected


@dataclass(frozen=True)
class Situation:
    """What is known about a failed attempt.

    `retries` so far on this level, `spent` on levels before it; `max_retries` when the task sets its own;
    `next_level`: a healthy level below the current one, or None; `hops` that the message made; `circuit_open`: the
    attempt was refused by a circuit; `probe`: its circuit is shut to others, so it was a probe, and the next attempt
    here would be one, too; `may_park`: it can wait until that closes; `left_s`: seconds until its deadline, None
    without one; `budget_spent`: the fleet's retry budget has none left; `own_delay_s`: seconds to wait when the task
    sets that itself; `user_facing`: somebody waits for it; `all_workers_affected`: every live worker of its queue
    reports this category for its circuit; `worker`: where it failed, None if nothing is known of that.
    """

    error: Classified
    retries: int
    max_retries: int | None = None
    next_level: int | None = None
    hops: int = 0
    circuit_open: bool = False
    probe: bool = False
    left_s: float | None = None
    budget_spent: bool = False
    own_delay_s: float | None = None
    spent: int = 0
    may_park: bool = False
    keeps: Keeps = "matrix"
    user_facing: bool = False
    all_workers_affected: bool = False
    worker: WorkerView | None = None

    @property
    def attempt(self) -> int:
        """1 is the first run, on whatever level."""
        return self.spent + self.retries + 1


@dataclass(frozen=True)
class RetryAfter:
    """Run again on the same level after `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True)
class FailOver:
    """Run on `level`, at once."""

    level: int


@dataclass(frozen=True)
class Park:
    """Wait, at no worker's cost, until the circuit lets calls pass again."""


@dataclass(frozen=True)
class Quarantine:
    """Let it fail, keep its message for an operator, and say why nothing else is done."""

    reason: str


@dataclass(frozen=True)
class Abandon:
    """Let it fail, and say why nothing else is done."""

    reason: str


Fate = RetryAfter | FailOver | Park | Quarantine | Abandon


@dataclass(frozen=True)
class FreeResources:
    """Before anything else: have this process let go of what it can."""


@dataclass(frozen=True)
class LongerTimeout:
    """The next attempt may take `factor` times the usual time."""

    factor: float


class WorkerAction(str, Enum):
    """What is done with a worker. Each is less drastic than the next."""

    DEGRADE = "degrade"
    """It says so, takes no more than it has slots for, and recovers by itself."""
    RECONNECT = "reconnect"
    """Its transport connects anew."""
    REMOVE = "remove"
    """Out of rotation: it takes nothing, what it had not begun goes back, it is not ready. A passed check ends that."""
    REPLACE = "replace"
    """Out of rotation, then a warm shutdown, so that its keeper starts a new one."""


@dataclass(frozen=True)
class Decision:
    """What becomes of the task, what is done before that and with the worker, and why, in one sentence.

    `severity` is the raised one. `budget_s` bounds what is done before the fate and with the worker, not the retry
    schedule: 5 s critical, 30 s major, 60 s minor, half of it for a task with `user_facing`. It goes by the severity
    of the row: DESIGN section 3 says both that severity raised by attempts shortens it and that the row decides. The
    row does, since a retry late in a schedule needs as long to reconnect or to free memory as the first one.
    """

    fate: Fate
    why: str
    severity: Severity
    budget_s: float
    first: FreeResources | LongerTimeout | None = None
    worker: WorkerAction | None = None


def decide(situation: Situation, random: Callable[[], float]) -> Decision:
    """What to do about a failed attempt. Every decision names a fate, and every path ends: retries and hops are
    bounded, and a parked task waits for its circuit and does no work meanwhile."""
    error, row = situation.error, situation.error.row
    fate, why = _fate(situation, random)
    return Decision(
        fate=fate,
        why=f"{error.category.value}: {why}",
        severity=severity_at(row, situation.attempt, situation.all_workers_affected),
        budget_s=time_budget_s(row, situation.user_facing),
        first=_first(situation, fate),
        worker=None if situation.circuit_open else about_worker(
            error.category, situation.worker, situation.all_workers_affected
        ),
    )  # fmt: skip


# -- the task ------------------------------------------------------------------------------------------------------


def _fate(situation: Situation, random: Callable[[], float]) -> tuple[Fate, str]:
    row = situation.error.row
    if situation.left_s is not None and situation.left_s <= 0:
        return _given_up(situation, "its deadline is over")
    if situation.circuit_open or (situation.probe and row.transient) or row.strategy is Strategy.FAILOVER:
        moved = _fail_over(situation)
        if moved is not None:
            return moved
    if situation.circuit_open and situation.may_park:
        return Park(), "no level is healthy, it waits until the circuit closes"
    if not row.transient:
        return _given_up(situation, "no retry would help")
    delay = situation.own_delay_s
    if delay is None:
        delay = delay_s(row, situation.retries, situation.error.retry_after_s, random)
    no_retry = _why_no_retry(situation, delay)
    if not no_retry:
        return RetryAfter(delay), f"it may pass by itself, attempt {situation.attempt + 1} follows in {delay:.2f} s"
    return _fail_over(situation) or _given_up(situation, no_retry)


def _fail_over(situation: Situation) -> tuple[Fate, str] | None:
    if situation.next_level is None or situation.hops >= MAX_HOPS:
        return None
    return FailOver(situation.next_level), f"level {situation.next_level} is healthy"


def _given_up(situation: Situation, reason: str) -> tuple[Fate, str]:
    """Kept by "matrix": what the matrix abandons, and what had been tried again, or would have been."""
    row = situation.error.row
    tried = situation.attempt > 1 or situation.hops > 0 or row.transient
    kept = situation.keeps == "all" or (situation.keeps == "matrix" and (tried or row.strategy is Strategy.ABANDON))
    return (Quarantine(reason) if kept else Abandon(reason)), reason


def _why_no_retry(situation: Situation, delay: float) -> str:
    row, everywhere = situation.error.row, situation.all_workers_affected
    limit = row.max_retries if situation.max_retries is None else situation.max_retries
    if situation.retries >= limit:
        return f"its {limit} retries are spent" if limit else "it is not to be retried"
    if not may_retry(row, situation.retries + 1, everywhere, limit):
        whose = "all workers are affected" if everywhere else "it is critical"
        return f"{whose}, so attempt {situation.retries + 1} was the last"
    if situation.left_s is not None and delay >= situation.left_s:
        return f"the next attempt, in {delay:.1f} s, would begin after its deadline"
    if situation.budget_spent:
        return "the retry budget of its circuit is spent"
    return ""


def _first(situation: Situation, fate: Fate) -> FreeResources | LongerTimeout | None:
    """A process short of resources frees them whatever becomes of this task: the next one would fare no better."""
    match situation.error.category:
        case ErrorCategory.RESOURCE if not situation.circuit_open:
            return FreeResources()
        case ErrorCategory.TIMEOUT if isinstance(fate, RetryAfter):
            return LongerTimeout(min(LONGER ** (situation.retries + 1), LONGEST))
        case _:
            return None


# -- the worker ----------------------------------------------------------------------------------------------------

_RECONNECT_AT = _DEGRADE_AT = _REPLACE_AT = _REMOVE_AT = 3
"""Failures in a row."""


def about_worker(
    category: ErrorCategory, worker: WorkerView | None, all_workers_affected: bool = False
) -> WorkerAction | None:
    """What to do with a worker. Trouble that all workers have is not the worker's."""
    if worker is None or all_workers_affected:
        return None
    match category:
        case ErrorCategory.CONNECTION if worker.stands_alone and worker.since_reconnect is None:
            action, at = WorkerAction.RECONNECT, _RECONNECT_AT
        case ErrorCategory.CONNECTION if worker.stands_alone and worker.since_reconnect is not None:
            return WorkerAction.DEGRADE if worker.since_reconnect >= _DEGRADE_AT else None
        case ErrorCategory.INITIALIZATION if worker.stands_alone or (worker.others == 0 and worker.kept):
            action, at = WorkerAction.REPLACE, _REPLACE_AT
        case ErrorCategory.HEALTH_CHECK if worker.streak < _REMOVE_AT or worker.others == worker.others_affected:
            action, at = WorkerAction.DEGRADE, 1
        case ErrorCategory.HEALTH_CHECK:
            action, at = WorkerAction.REMOVE, _REMOVE_AT
        case _:
            return None
    return action if worker.streak >= at else None
