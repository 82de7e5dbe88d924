"""What is known of a message in quarantine, as values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from typing import Any

from signals.redact import one_line, redact_value

DETAIL_LIMIT, NAME_LIMIT = 300, 200
_HEAD = re.compile(rb"(\d{1,20}) (\d{1,20}) (\S+) (\S*)\n")


class Reason(str, Enum):
    """Why a message is in quarantine: a closed set."""

    UNDECODABLE = "undecodable"
    """Its bytes, its envelope or its body cannot be read."""
    MALFORMED = "malformed"
    """It can be read, but it is no task message: what Celery needs is missing or of a wrong type."""
    UNKNOWN_TASK = "unknown_task"
    """The worker that got it has no task of this name."""
    WRONG_ARGUMENTS = "wrong_arguments"
    """The task cannot be called with its arguments."""
    EXHAUSTED = "exhausted"
    """It failed, and its retries and fallback levels are spent."""
    ABANDONED = "abandoned"
    """It failed with an error that, by the error matrix, is not worth a retry."""
    FAILED = "failed"
    """It failed in its own code; quarantined only with `resilience_quarantine_abandoned = "all"`."""
    TIME_LIMIT = "time_limit"
    """It ran past its hard time limit, and its process was killed."""
    LOST = "lost"
    """The process that ran it died, and it may not run twice."""
    POISON = "poison"
    """It killed every process that ran it."""
    INTERNAL_ERROR = "internal_error"
    """Celery failed around it: before its body began, or when its result was to be stored."""


@dataclass(frozen=True)
class Arrival:
    """A message on its way into the quarantine. `source`: the Redis list where it lay, "" with another broker.

    `key` makes repeating harmless, where the message itself cannot be recognised again.
    """

    raw: bytes
    reason: Reason
    detail: str = ""
    source: str = ""
    queue: str = ""
    key: str = ""
    worker: str = ""
    deaths: int = 0
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Record:
    """A message in quarantine. `at`: Unix time in seconds; `hops`: [from, to, reason, level] of each move it made.

    All texts are redacted. `raw`: the exact bytes, which are not; None in a list.
    """

    id: str
    at: float
    reason: str
    detail: str
    size_bytes: int
    task: str = ""
    task_id: str = ""
    queue: str = ""
    source: str = ""
    worker: str = ""
    arguments: str = ""
    retries: int = 0
    deaths: int = 0
    replays: int = 0
    hops: list[Any] = field(default_factory=list, hash=False)
    error: Mapping[str, Any] | None = field(default=None, hash=False)
    raw: bytes | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Every field except the raw bytes."""
        values = asdict(replace(self, raw=None, error=None)) | {"error": self.error}
        del values["raw"]
        return values

    @property
    def named(self) -> str:
        """The task and its id, as far as they are known."""
        return f"{self.task or 'a message'}[{self.task_id}]" if self.task_id else self.task or "a message"


_STORED = tuple(each.name for each in fields(Record) if each.name not in ("id", "at", "reason", "size_bytes", "raw"))
_NUMBERS = ("retries", "deaths", "replays")


def stored(record: Record) -> str:
    """The part of a record that Redis keeps as one JSON text; the script puts what it counts in front."""
    values = {name: getattr(record, name) for name in _STORED}
    return json.dumps({name: value for name, value in values.items() if value})


def cleaned(record: Record) -> Record:
    """Redacted and bounded: everybody can read the quarantine."""
    texts: dict[str, Any] = {
        name: one_line(getattr(record, name), NAME_LIMIT)
        for name in ("task", "task_id", "queue", "source", "worker", "arguments")
    }
    hops: Any = redact_value(record.hops)
    detail = one_line(record.detail, DETAIL_LIMIT)
    return replace(record, **texts, detail=detail, hops=hops if isinstance(hops, list) else [])


def record_of(record_id: str, entry: bytes, raw: bytes | None = None) -> Record:
    """The record that Redis keeps as `entry`; of a mangled one, what can still be told."""
    head = _HEAD.match(entry)
    if head is None:
        return Record(record_id, 0.0, "?", "its record is mangled", len(raw or b""), raw=raw)
    at_ms, size, reason = int(head[1]), int(head[2]), head[3].decode("ascii", "replace")
    try:
        values = json.loads(entry[head.end() :])
        known = {name: values[name] for name in _STORED if _fits(name, values.get(name))}
    except (ValueError, TypeError, AttributeError, RecursionError):
        known = {"detail": "its record is mangled"}
    return Record(record_id, at_ms / 1000, reason, known.pop("detail", ""), size, **known, raw=raw)


def _fits(name: str, value: object) -> bool:
    if name in _NUMBERS:
        return type(value) is int
    if name == "hops":
        return isinstance(value, list)
    return isinstance(value, dict if name == "error" else str)


@dataclass(frozen=True)
class Selection:
    """Which records are meant: by reason, task and queue; None means any."""

    because: str | None = None
    task: str | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        if self.because is not None and self.because not in set(Reason):
            raise ValueError(
                f"no message is quarantined because of {one_line(self.because, 40)}: "
                f"the reasons are {', '.join(reason.value for reason in Reason)}"
            )

    def __contains__(self, record: object) -> bool:
        return isinstance(record, Record) and all(
            wanted is None or wanted == got
            for wanted, got in ((self.because, record.reason), (self.task, record.task), (self.queue, record.queue))
        )


def checked_id(record_id: object) -> str:
    """`record_id` if it is one. Raises ValueError with one sentence."""
    text = str(record_id)
    if not re.fullmatch(r"[1-9][0-9]{0,15}", text, re.ASCII):
        raise ValueError(
            f"{one_line(repr(text), 40)} is no id of the quarantine: a number is, as `quarantine list` shows"
        )
    return text
