"""What a round knows when it is over: what was published, what the tasks wrote down, who was hit when. Plain data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Job:
    """One published task. Numbers grow in the order of publishing.

    `after`: the jobs whose end publishes it (a chain's next task, a chord's body); () when the publisher sent it.
    `due`: the Unix time before which it must not begin. `ordered`: its place in its list is known, so order is judged.
    """

    number: int
    queue: str
    priority: int
    after: tuple[int, ...] = ()
    due: float = 0.0
    ordered: bool = True


@dataclass(frozen=True)
class Mark:
    """A line of the tasks' book: a run of job `number` began or ended in process `pid` of the worker `main`."""

    event: str
    number: int
    attempt: int
    pid: int
    main: int
    at: float

    @classmethod
    def read(cls, line: bytes | str) -> Mark:
        return cls(*json.loads(line))


@dataclass(frozen=True)
class Blow:
    """A worker was hit: `began` is the time just before the signal, `over` when the process was seen to be gone.

    `pid` is the process that was hit, `main` its worker. `held` are the jobs whose messages the worker had not
    acknowledged when it was over, as the broker's keys said. `kind`: see `fleet.py`; `kills` counts the SIGKILLs sent.
    `rescued`: a ready worker was there all through the seconds that followed, so that the time to restart is judged.
    """

    kind: str
    main: int
    pid: int
    began: float
    over: float
    held: frozenset[int] = frozenset()
    kills: int = 1
    rescued: bool = True
    frozen_s: float = 0.0

    def could_repeat(self) -> bool:
        """A warm stop waits for what runs: nothing may run twice after it."""
        return self.kind != "stop"


@dataclass(frozen=True)
class Record:
    """A round. `slots`: pool slots by worker (its main pid). `seen`: by job and worker, when that worker was first seen
    to hold the job's message; it was looked at often, so what was held for a moment only may be missing.
    `quarantined`: jobs that were in the quarantine at the end; `deaths`: after so many, and one alone, they may be.
    """

    jobs: Mapping[int, Job]
    marks: tuple[Mark, ...]
    blows: tuple[Blow, ...]
    slots: Mapping[int, int] = field(default_factory=dict)
    seen: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    quarantined: frozenset[int] = frozenset()
    deaths: int = 3

    @cached_property
    def begins(self) -> dict[int, list[Mark]]:
        return self._by_job("begin")

    @cached_property
    def ends(self) -> dict[int, list[Mark]]:
        return self._by_job("end")

    def _by_job(self, event: str) -> dict[int, list[Mark]]:
        found: dict[int, list[Mark]] = defaultdict(list)
        for mark in sorted(self.marks, key=lambda mark: mark.at):
            if mark.event == event:
                found[mark.number].append(mark)
        return dict(found)

    def end_of(self, begin: Mark) -> Mark | None:
        """The end of that very run; None if it has none."""
        later = (end for end in self.ends.get(begin.number, ()) if end.pid == begin.pid and end.at >= begin.at)
        following = [again.at for again in self.begins[begin.number] if again.pid == begin.pid and again.at > begin.at]
        before = min(following, default=float("inf"))
        return next((end for end in later if end.at <= before), None)
