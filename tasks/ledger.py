"""The journal of a run, a locked file: what was sent as what, what came back, how far the output is safe.

One JSON object per line in `<output>.ledger`, appended before the action that it announces: a line is "sent"
before its message is published, "answered" before its answer is written, "written" only after the output is
on disk. So whatever a kill cuts short is found again: at worst a line is looked up once more.

Records reach the operating system as they are appended, which outlives a SIGKILL of the process. They reach
the disk (fsync) by `sync()`, which the run calls before it deletes any result: that outlives a power failure.
"""

from __future__ import annotations

import fcntl
import io
import os
from pathlib import Path

from tasks.ledger_state import VERSION, Header, LedgerError, LedgerState, Record, encode, recover


class Ledger:
    """An open, locked ledger and its state. A context manager; one holder at a time, on this machine."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open or create it; raises LedgerError when it is held, damaged, or of another input."""
        self.path = path
        self._file = _locked(path)
        try:
            self.state = self._recovered(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run_id(self) -> str:
        assert self.state.header is not None
        return self.state.header.run_id

    def append(self, *records: Record) -> None:
        """Write records to the operating system in one piece and add them to the state."""
        self._write(b"".join(encode(record) for record in records))
        for record in records:
            self.state.apply(record)

    def sync(self) -> None:
        """Everything appended so far is on disk when this returns."""
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise LedgerError(f"The ledger {self.path} cannot be written: {exc.strerror}.") from exc

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            whole = self._file.write(data) == len(data)
            if not whole:
                self._file.truncate(self._size)  # a part in the middle would damage what comes after it
        except OSError as exc:
            raise LedgerError(f"The ledger {self.path} cannot be written: {exc.strerror}.") from exc
        if not whole:
            raise LedgerError(f"The ledger {self.path} cannot be written: the disk is full.")
        self._size += len(data)

    def _recovered(self, header: Header) -> LedgerState:
        with open(self.path, "rb") as file:
            try:
                state, self._size = recover(file)
            except LedgerError as exc:
                raise LedgerError(
                    f"The ledger {self.path} cannot be resumed: {exc}; give another output to start anew."
                ) from None
        self._file.truncate(self._size)
        if self._size == 0:
            self._write(encode(header))
            state.apply(header)
        elif state.header is None or state.header.version != VERSION:
            raise LedgerError(
                f"{self.path} is not a ledger that this version reads: give another output to start anew."
            )
        elif (state.header.input_sha256, state.header.input_bytes) != (
            header.input_sha256,
            header.input_bytes,
        ):
            raise LedgerError(
                f"The ledger {self.path} belongs to another input: give that input again, or another output."
            )
        return state


def _locked(path: Path) -> io.FileIO:
    try:
        file = io.FileIO(path, "a+")
    except OSError as exc:
        raise LedgerError(f"The ledger {path} cannot be opened: {exc.strerror}.") from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise LedgerError(f"Another run holds {path}: wait until it ends, or give this one another output.") from None
    return file
