"""What a run's ledger records, and the state that the records add up to. Pure: no I/O, no clock."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import ClassVar, TypeAlias

VERSION = 1


class LedgerError(Exception):
    """The ledger cannot be used; the message is one sentence."""


# --- the records


@dataclass(frozen=True)
class Header:
    """The first record: which input this ledger belongs to."""

    tag: ClassVar[str] = "header"
    run_id: str
    input_sha256: str
    input_bytes: int
    lines: int
    version: int = VERSION


@dataclass(frozen=True)
class Sent:
    """Line `line` is about to be published for the `n`-th time; `at` is in seconds since the epoch."""

    tag: ClassVar[str] = "sent"
    line: int
    task_id: str
    n: int
    at: float


@dataclass(frozen=True)
class Answered:
    """The answer of `task_id` was taken for this line."""

    tag: ClassVar[str] = "answered"
    line: int
    task_id: str
    source: str
    degraded: bool = False


@dataclass(frozen=True)
class Failed:
    """The line ends with an error. `kind`: "failed" (its task failed), "bad" (malformed input) or "lost"."""

    tag: ClassVar[str] = "failed"
    line: int
    task_id: str | None
    error: str
    kind: str = "failed"


@dataclass(frozen=True)
class Refused:
    """The upstream refused the key for this send: the line is asked again when the run is resumed."""

    tag: ClassVar[str] = "refused"
    line: int
    task_id: str


@dataclass(frozen=True)
class Written:
    """The output is on disk up to and with line `through`."""

    tag: ClassVar[str] = "written"
    through: int


@dataclass(frozen=True)
class Repeated:
    """More than one send of this line was answered; only one answer is in the output."""

    tag: ClassVar[str] = "repeated"
    line: int


@dataclass(frozen=True)
class Finished:
    """Every line is in the output and repeats were looked for: there is nothing left to do."""

    tag: ClassVar[str] = "finished"


Record: TypeAlias = Header | Sent | Answered | Failed | Refused | Written | Repeated | Finished
_KINDS: dict[str, type[Record]] = {
    kind.tag: kind for kind in (Header, Sent, Answered, Failed, Refused, Written, Repeated, Finished)
}


def encode(record: Record) -> bytes:
    """One line of the file."""
    return json.dumps({"r": record.tag, **asdict(record)}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Record:
    """The record of one line; raises ValueError for anything else."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not an object")  # noqa: TRY004 - to the caller this line is damaged like any other
    kind = _KINDS.get(fields.pop("r", ""))
    if kind is None:
        raise ValueError("unknown record")
    try:
        return kind(**fields)
    except TypeError as exc:
        raise ValueError("wrong fields") from exc


def task_id_of(run_id: str, line: int, n: int) -> str:
    """The id of the `n`-th send of a line: always the same, so a resumed run finds what was sent before."""
    return str(uuid.uuid5(uuid.UUID(run_id), f"{line}:{n}"))


# --- the state that the records add up to


@dataclass
class LineState:
    """A line that was sent or has ended."""

    ids: list[str] = field(default_factory=list)
    at: float = 0.0
    refused: bool = False  # its last send was refused for its key: it waits to be asked again
    end: Answered | Failed | None = None


@dataclass
class LedgerState:
    """Where the run stands. Lines on disk that were sent once are forgotten: memory follows the open ones."""

    header: Header | None = None
    lines: dict[int, LineState] = field(default_factory=dict)
    resent: set[int] = field(default_factory=set)
    repeated: set[int] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)  # answered, failed, bad, lost
    by_source: Counter[str] = field(default_factory=Counter)
    sent: int = 0  # lines sent at least once
    written_through: int = 0
    finished: bool = False

    @property
    def answered(self) -> int:
        return self.ends["answered"]

    def apply(self, record: Record) -> None:
        """Add one record."""
        match record:
            case Header():
                self.header = record
            case Sent(line, task_id, _, at):
                self._apply_sent(line, task_id, at)
            case Answered(line) | Failed(line):
                self._apply_end(line, record)
            case Refused(line):
                if line > self.written_through:
                    self.lines.setdefault(line, LineState()).refused = True
            case Written(through):
                self._apply_written(through)
            case Repeated(line):
                self.repeated.add(line)
            case Finished():
                self.finished = True

    def _apply_sent(self, line: int, task_id: str, at: float) -> None:
        if line <= self.written_through:
            return
        state = self.lines.setdefault(line, LineState())
        if task_id in state.ids:
            return
        if state.ids and not state.refused:
            self.resent.add(line)
        self.sent += not state.ids
        state.ids.append(task_id)
        state.at = at
        state.refused = False

    def _apply_end(self, line: int, end: Answered | Failed) -> None:
        if line <= self.written_through:
            return
        state = self.lines.setdefault(line, LineState())
        if state.end is not None:  # a resumed run takes the answer again: it may be that of another send
            self._count(state.end, -1)
        self._count(end, +1)
        state.end = end

    def _count(self, end: Answered | Failed, by: int) -> None:
        if isinstance(end, Answered):
            self.ends["answered"] += by
            self.by_source[end.source] += by
        else:
            self.ends[end.kind] += by

    def _apply_written(self, through: int) -> None:
        for line in range(self.written_through + 1, through + 1):
            if line not in self.resent:
                self.lines.pop(line, None)
        self.written_through = max(self.written_through, through)


def fold(records: Iterable[Record]) -> LedgerState:
    """The state that these records add up to."""
    state = LedgerState()
    for record in records:
        state.apply(record)
    return state


def recover(lines: Iterable[bytes]) -> tuple[LedgerState, int]:
    """The state of a ledger's lines, and how many bytes of them are whole: a torn end is left out.

    Raises LedgerError for damage anywhere else.
    """
    state = LedgerState()
    whole = torn = 0
    for number, line in enumerate(lines, start=1):
        if torn:
            raise LedgerError(f"line {torn} is damaged or of a newer version")
        record = _decoded(line) if line.endswith(b"\n") else None
        if record is None:
            torn = number
        else:
            state.apply(record)
            whole += len(line)
    return state, whole


def _decoded(line: bytes) -> Record | None:
    try:
        return decode(line)
    except (ValueError, RecursionError):
        return None
