"""Recoveries that take time, written down where every host sees them: who does what, since when, until when at most.

One script per operation. A recovery belongs to who carries it out; whoever finds that one dead takes it over by a
compare-and-set, so that it is never done twice at the same time, and ended once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from resilience.shared_redis import SharedRedis

MOST = 1_000
"""Recoveries under way at most, in the whole fleet."""
KEPT_S = 600.0
"""How long a recovery that nobody ends is kept past its budget."""
SERVES_S = 10.0
"""A worker that did not say for so long that it serves a queue does not."""
REPORT_S = 60.0
"""How long a worker's report of a failure counts."""

INITIATED, SUCCEEDED, FAILED = "initiated", "succeeded", "failed"
_SCRIPTS = (
    "recovery_begin.lua", "recovery_take.lua", "recovery_end.lua", "recovery_count.lua", "affected.lua", "serving.lua",
)  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """What failed, for whom: the error's category and (raised) severity, the task, its circuit; "" where unknown."""

    category: str
    severity: str
    task_id: str = ""
    task: str = ""
    circuit: str = ""
    why: str = ""


@dataclass(frozen=True)
class Recovery:
    """One that is under way. `by` carries it out, "" nobody yet; `worker` is the one that it is about, if any.

    `since` and `deadline` are seconds since the epoch by Redis's clock, `now` is what it showed when this was read.
    """

    id: str
    strategy: str
    category: str
    severity: str
    began_by: str
    by: str
    worker: str
    task_id: str
    task: str
    circuit: str
    step: str
    why: str
    since: float
    deadline: float
    now: float

    @property
    def cause(self) -> Cause:
        return Cause(self.category, self.severity, self.task_id, self.task, self.circuit, self.why)


@dataclass(frozen=True)
class Count:
    """How often a strategy was tried for a category of errors, and how that ended."""

    strategy: str
    category: str
    initiated: int = 0
    succeeded: int = 0
    failed: int = 0


def count_name(what: str, strategy: str, category: str) -> str:
    return f"{what}|{strategy}|{category}"


class Ledger:
    """Raises STORE_ERRORS while Redis is away; every call waits a bounded time."""

    def __init__(self, shared: SharedRedis) -> None:
        self._shared = shared
        for script in _SCRIPTS:
            shared.load(__package__, script)
        self._active = f"{shared.prefix}:recoveries"
        self._counts = f"{shared.prefix}:recoveries:counts"

    def begin(
        self, recovery_id: str, strategy: str, cause: Cause, budget_s: float, began_by: str, by: str = "",
        worker: str = "", again_s: float = 0.0,
    ) -> int:  # fmt: skip
        """1: it is written down; 0: it is under way, or began in the last `again_s` seconds; -1: too many are."""
        fields = {
            "strategy": strategy, "category": cause.category, "severity": cause.severity, "task_id": cause.task_id,
            "task": cause.task, "circuit": cause.circuit, "why": cause.why, "began_by": began_by, "by": by,
            "worker": worker, "step": "asked for" if not by else "begun",
        }  # fmt: skip
        known = [word for name, value in fields.items() for word in (name, value[:300])]
        count = count_name(INITIATED, strategy, cause.category)
        args = [recovery_id, _ms(budget_s), _ms(KEPT_S), MOST, count, _ms(again_s), *known]
        keys = [*self._keys(recovery_id), f"{self._key(recovery_id)}:{strategy}:lately"]
        return int(self._shared.run("recovery_begin.lua", keys, args))

    def take(self, recovery: Recovery, by: str, step: str) -> bool:
        """Carry it out from now on, or go on to `step`; False if somebody else does, or it has ended."""
        return bool(self._shared.run("recovery_take.lua", [self._key(recovery.id)], [recovery.by, by, step]))

    def end(self, recovery_id: str, by: str, strategy: str, category: str, succeeded: bool) -> bool:
        """End what `by` carries out; False if it is not its any more. Counted once."""
        count = count_name(SUCCEEDED if succeeded else FAILED, strategy, category)
        return bool(self._shared.run("recovery_end.lua", self._keys(recovery_id), [recovery_id, by, count]))

    def add(self, counts: dict[str, int]) -> None:
        """Raise counts, by their names (see `count_name`)."""
        words = [word for name, number in counts.items() for word in (name, number)]
        self._shared.run("recovery_count.lua", [self._counts], words)

    def report(self, owner: str, reports: list[tuple[str, str, str, bool]]) -> list[tuple[int, int]]:
        """Tell of (circuit, category, queue, whether `owner` has such failures); hear of each how many other live
        workers serve the queue, and how many of them report the same. The others say so from the first report on."""
        calls = [
            (
                [self._affected(circuit, category, queue), self._serving(queue)],
                [owner, int(has), _ms(REPORT_S), _ms(SERVES_S)],
            )
            for circuit, category, queue, has in reports
        ]
        rows = cast("list[list[int]]", self._shared.run_many("affected.lua", calls))
        return [(int(others), int(affected)) for others, affected in rows]

    def serve(self, owner: str, queues: Iterable[str]) -> list[str]:
        """Say that `owner` serves these queues, where a report asked lately; the ids of the recoveries under way."""
        keys = [self._active, *(self._serving(queue) for queue in queues)]
        return cast("list[str]", self._shared.run("serving.lua", keys, [owner]))

    def suffers(self, owner: str, circuit: str, category: str, queues: Iterable[str], within_s: float) -> bool:
        """Whether `owner` reported failures of this category through this circuit in the last `within_s` seconds."""
        pipe = self._shared.client.pipeline(transaction=False)
        pipe.time()
        for queue in queues:
            pipe.zscore(self._affected(circuit, category, queue), owner)
        (seconds, micros), *reports = pipe.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return any(report is not None and now_ms - float(report) < _ms(within_s) for report in reports)

    def active(self, ids: Iterable[str] | None = None) -> list[Recovery]:
        """What is under way, oldest first; all of it, or what of `ids` is."""
        client = self._shared.client
        wanted = cast("list[str]", client.zrange(self._active, 0, -1)) if ids is None else list(ids)
        pipe = client.pipeline(transaction=False)
        pipe.time()
        for recovery_id in wanted:
            pipe.hgetall(self._key(recovery_id))
        (seconds, micros), *rows = pipe.execute()
        now = int(seconds) + int(micros) / 1e6
        found = [_recovery(name, row, now) for name, row in zip(wanted, rows, strict=True) if "by" in row]
        return sorted(found, key=lambda recovery: recovery.since)

    def counts(self) -> list[Count]:
        """By strategy and category."""
        rows = cast("dict[str, str]", self._shared.client.hgetall(self._counts))
        table: dict[tuple[str, str], dict[str, int]] = {}
        for name, number in rows.items():
            what, _, place = name.partition("|")
            strategy, _, category = place.partition("|")
            if what in (INITIATED, SUCCEEDED, FAILED):
                table.setdefault((strategy, category), {})[what] = int(number)
        return [
            Count(*place, *(numbers.get(what, 0) for what in (INITIATED, SUCCEEDED, FAILED)))
            for place, numbers in sorted(table.items())
        ]

    def _affected(self, circuit: str, category: str, queue: str) -> str:
        return f"{self._shared.prefix}:affected:{circuit}|{category}|{queue}"

    def _serving(self, queue: str) -> str:
        return f"{self._shared.prefix}:serving:{queue}"

    def _key(self, recovery_id: str) -> str:
        return f"{self._shared.prefix}:recovery:{recovery_id}"

    def _keys(self, recovery_id: str) -> list[str]:
        return [self._active, self._key(recovery_id), self._counts]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _recovery(recovery_id: str, row: dict[str, Any], now: float) -> Recovery:
    texts = {name: str(row.get(name, "")) for name in Recovery.__dataclass_fields__ if name not in _NUMBERS}
    return Recovery(
        **{**texts, "id": recovery_id},
        since=float(row.get("since", 0)) / 1000, deadline=float(row.get("deadline", 0)) / 1000, now=now,
    )  # fmt: skip


_NUMBERS = ("since", "deadline", "now")
