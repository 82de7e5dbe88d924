"""The output of a run: one JSON line per input line, in input order, each written exactly once."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any


class OutputError(Exception):
    """The output cannot be written or resumed; the message is one sentence."""


def check_writable(path: Path) -> None:
    """Raise OutputError when no file could be written at `path`; creates nothing."""
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder: give the name of a file in it.")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise OutputError(f"The output {path} is not a plain file: only a plain file can be resumed.")
    if not folder.is_dir():
        raise OutputError(f"The folder {folder} of the output does not exist: create it first.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise OutputError(f"The output {path} may not be written by this user: give another place.")


def encode(entry: dict[str, Any]) -> bytes:
    """One line of the output. Half surrogates, which UTF-8 cannot carry, stay JSON escapes."""
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


class AnswerFile:
    """The open output. Opening keeps the whole lines that are there and cuts a torn end."""

    def __init__(self, path: Path, written_through: int) -> None:
        """`written_through`: lines that the ledger says are on disk; an output with fewer is refused."""
        self.path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 - kept open for the whole run
        except OSError as exc:
            raise OutputError(f"The output {path} cannot be opened: {exc.strerror}.") from exc
        try:
            self.lines = self._keep_whole_lines(written_through)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, data: bytes, lines: int) -> None:
        """Write whole lines to the operating system."""
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as exc:
            raise OutputError(f"The output {self.path} cannot be written: {exc.strerror}.") from exc
        self.lines += lines

    def sync(self) -> None:
        """Everything appended so far is on disk when this returns."""
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise OutputError(f"The output {self.path} cannot be written: {exc.strerror}.") from exc

    def close(self) -> None:
        """Close the file; a write that failed before has been reported and is not tried again."""
        self._file.close()

    def _keep_whole_lines(self, written_through: int) -> int:
        self._file.seek(0)
        lines = size = 0
        for raw in self._file:
            if not raw.endswith(b"\n") or _line_number(raw) != lines + 1:
                break
            lines += 1
            size += len(raw)
        left = self._file.seek(0, os.SEEK_END) - size
        if lines < written_through:
            raise OutputError(
                f"The output {self.path} has {lines} whole lines where its ledger says "
                f"{written_through}: put the output back as it was, or give another one to start anew."
            )
        if left:
            self._file.truncate(size)
        return lines


def _line_number(raw: bytes) -> int | None:
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry.get("line") if isinstance(entry, dict) else None
