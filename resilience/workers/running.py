"""What a worker is running at this moment: carried by its pulse, read by whoever finds the worker dead.

A SIGKILL sends no signal, so the last beat is the witness. It is up to a beat old: an attempt that it names may have
ended since. Whether it did is told by its message, which is acknowledged when it ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

CAPACITY = 200
"""Attempts that a beat names at most. A worker that runs more is known by these: a circuit needs no more to judge."""

_LONGEST = 500
"""Characters of one attempt's names together; one with longer names is left out."""


@dataclass(frozen=True)
class RunningAttempt:
    """One attempt that a pool slot has begun. `tag`: its unacknowledged message; "" when acknowledged before it ran."""

    task: str
    task_id: str
    attempt: int
    circuit: str
    tag: str


@dataclass(frozen=True)
class Running:
    """A worker's attempts under way, and whether it was being stopped: then their end is nobody's failure."""

    attempts: tuple[RunningAttempt, ...] = ()
    stopping: bool = False


def packed(attempts: Iterable[RunningAttempt], stopping: bool) -> str:
    """The beat's text, of bounded size."""
    rows: list[tuple[object, ...]] = []
    for one in attempts:
        if len(rows) == CAPACITY:
            break
        if len(one.task) + len(one.task_id) + len(one.circuit) + len(one.tag) <= _LONGEST:
            rows.append((one.task, one.task_id, one.attempt, one.circuit, one.tag))
    return json.dumps([stopping, rows], separators=(",", ":"))


def unpacked(text: str | bytes) -> Running:
    """What `packed` wrote. Raises ValueError for anything else: another release wrote it, or nobody of ours."""
    try:
        stopping, rows = json.loads(text)
        attempts = tuple(
            RunningAttempt(str(task), str(task_id), int(number), str(circuit), str(tag))
            for task, task_id, number, circuit, tag in rows
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"no list of running attempts: {text[:80]!r}") from error
    return Running(attempts, bool(stopping))
