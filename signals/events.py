"""One frozen type per fact. Sinks and tests read these; nothing here does I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from signals.redact import redact_value


@dataclass(frozen=True)
class Event:
    """Something that happened. `kind` is its stable name in logs, Celery events and metrics."""

    kind: ClassVar[str] = "event"

    def fields(self) -> dict[str, Any]:
        """The event's values, JSON-ready and redacted, without its kind."""
        return {name: redact_value(value) for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class CircuitChanged(Event):
    """A circuit moved from one state to another; sent once, by the process whose call moved it."""

    kind: ClassVar[str] = "circuit-changed"

    name: str
    old: str
    new: str
    epoch: int
    reason: str
    open_s: float = 0.0
    actor: str = ""


@dataclass(frozen=True)
class PolicyConflict(Event):
    """One circuit is used with two policies; the newer one is in force. `difference` names both values of each rule."""

    kind: ClassVar[str] = "policy-conflict"

    name: str
    difference: str


@dataclass(frozen=True)
class StoreAway(Event):
    """The breaker's Redis stopped answering; this process goes on with a breaker of its own."""

    kind: ClassVar[str] = "store-away"

    error: str


@dataclass(frozen=True)
class StoreBack(Event):
    """The breaker's Redis answers again; the shared state counts again."""

    kind: ClassVar[str] = "store-back"

    away_s: float


@dataclass(frozen=True)
class TaskRerouted(Event):
    """A task's message went to another queue under the same id."""

    kind: ClassVar[str] = "task-hop"

    task_id: str
    task: str
    origin: str
    destination: str
    reason: str
    hops: int


@dataclass(frozen=True)
class RetryDecided(Event):
    """A failed attempt will be repeated. `severity` rises past attempt 3, and when all workers are affected."""

    kind: ClassVar[str] = "retry-decided"

    task_id: str
    task: str
    attempt: int
    category: str
    delay_s: float
    severity: str = ""


@dataclass(frozen=True)
class TaskAbandoned(Event):
    """A task failed for good: no retry and no further level would help, for the `reason` given.

    `context` is what is known of the error as data (see `resilience.wrap`), `report` the same in lines for a person.
    """

    kind: ClassVar[str] = "task-abandoned"

    task_id: str
    task: str
    attempt: int
    category: str
    severity: str
    error: str
    reason: str = ""
    context: Mapping[str, Any] = field(default_factory=dict, hash=False)
    report: str = ""


@dataclass(frozen=True)
class WorkerDied(Event):
    """A worker process vanished; `reclaimed` messages went back to their queues."""

    kind: ClassVar[str] = "worker-died"

    owner: str
    reclaimed: int
    by: str


@dataclass(frozen=True)
class ClaimsTakenOver(Event):
    """A worker that was away held messages that others took over meanwhile: `late` of its settlements came too late,
    so that those tasks ran, or run, twice; `dropped` tasks it did not begin."""

    kind: ClassVar[str] = "claims-taken-over"

    owner: str
    late: int
    dropped: int


@dataclass(frozen=True)
class WorkerStalled(Event):
    """A worker with free slots received nothing for `for_s` seconds although messages wait; it connects anew."""

    kind: ClassVar[str] = "worker-stalled"

    owner: str
    waiting: int
    for_s: float


@dataclass(frozen=True)
class WorkerOutOfRotation(Event):
    """A worker takes no tasks until what is wrong with it, `why`, is over; what it had not begun is on its queue."""

    kind: ClassVar[str] = "worker-out-of-rotation"

    owner: str
    why: str


@dataclass(frozen=True)
class WorkerBackInRotation(Event):
    """A worker takes tasks again, after `away_s` seconds."""

    kind: ClassVar[str] = "worker-back-in-rotation"

    owner: str
    away_s: float


@dataclass(frozen=True)
class WorkerUnhealthy(Event):
    """A live worker missed health checks."""

    kind: ClassVar[str] = "worker-unhealthy"

    owner: str
    missed: int


@dataclass(frozen=True)
class RecoveryStarted(Event):
    """A recovery that takes time began: by `strategy`, because of an error of `category`; it may take `budget_s`.

    `id` names it until it ends; `worker` is the one that it is about.
    """

    kind: ClassVar[str] = "recovery-started"

    id: str
    strategy: str
    category: str
    severity: str
    task_id: str
    task: str
    worker: str
    circuit: str
    budget_s: float
    why: str


@dataclass(frozen=True)
class RecoveryEnded(Event):
    """A recovery ended, after `took_s`; told once, by who ended it. `trouble`: why it did not succeed."""

    kind: ClassVar[str] = "recovery-ended"

    id: str
    strategy: str
    category: str
    task_id: str
    task: str
    worker: str
    succeeded: bool
    took_s: float
    trouble: str = ""


@dataclass(frozen=True)
class WorkerRecovered(Event):
    """A worker that was degraded, or taken out of rotation, by a recovery was well for a while: it works as usual."""

    kind: ClassVar[str] = "worker-recovered"

    owner: str
    after_s: float


@dataclass(frozen=True)
class MessageQuarantined(Event):
    """A message cannot run, or was given up; it lies in the quarantine as `id`, whole, until an operator decides."""

    kind: ClassVar[str] = "message-quarantined"

    id: str
    task_id: str
    task: str
    reason: str
    detail: str
    queue: str
    deaths: int = 0
    replays: int = 0


@dataclass(frozen=True)
class QuarantineDropped(Event):
    """A message is about to leave the quarantine for good, because a limit has no room for it."""

    kind: ClassVar[str] = "quarantine-dropped"

    id: str
    task_id: str
    task: str
    reason: str
    limit: str
    size_bytes: int


@dataclass(frozen=True)
class QuarantineReplayed(Event):
    """An operator put a message from the quarantine back onto a queue. `why` is the operator's reason."""

    kind: ClassVar[str] = "quarantine-replayed"

    id: str
    task_id: str
    task: str
    reason: str
    queue: str
    actor: str
    why: str


@dataclass(frozen=True)
class QuarantineDiscarded(Event):
    """An operator removed a message from the quarantine for good. `why` is the operator's reason."""

    kind: ClassVar[str] = "quarantine-discarded"

    id: str
    task_id: str
    task: str
    reason: str
    actor: str
    why: str


@dataclass(frozen=True)
class ParkedReleased(Event):
    """An operator put parked messages of a circuit back onto their home queue. `why` is the operator's reason."""

    kind: ClassVar[str] = "parked-released"

    circuit: str
    home: str
    messages: int
    actor: str
    why: str


class Result(str, Enum):
    """How one attempt ended, as far as a circuit may care."""

    SUCCESS = "success"
    FAILURE = "failure"
    LIMITED = "limited"
    """The dependency asked for fewer calls (429): a failure of the call, judged by a threshold of its own."""
    NOTHING = "nothing"
    """Ignored, rejected, revoked or re-routed: says nothing about the dependency."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of one task, observed once. `attempt` 1 is the first run; `runtime_s` is None when unknown."""

    task: str
    task_id: str
    attempt: int
    result: Result
    error: BaseException | None = None
    runtime_s: float | None = None
