"""`pool run`: every line of a file through the pool, each answer written once, in input order, resumable."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery

from tasks import answers
from tasks.answers import AnswerFile, OutputError
from tasks.ledger import Ledger
from tasks.ledger_state import Header, LedgerError
from tasks.pool_link import LinkError, PoolLink
from tasks.prompts import InputDigest, measure, read_prompts
from tasks.run_loop import RunLoop
from tasks.run_report import KeyRefused, OnProgress, RunError, RunOptions, RunProgress, RunSummary

__all__ = [
    "KeyRefused",
    "RunError",
    "RunOptions",
    "RunProgress",
    "RunSummary",
    "check_files",
    "ledger_path_of",
    "run_lines",
]


def ledger_path_of(output_path: Path) -> Path:
    """Where the ledger of an output lies: beside it."""
    return output_path.with_name(output_path.name + ".ledger")


def check_files(input_path: Path, output_path: Path) -> None:
    """Raise RunError now, before a pool is started, for files that `run_lines` would refuse."""
    try:
        _checked_input(input_path, output_path)
        answers.check_writable(output_path)
    except OutputError as exc:
        raise RunError(str(exc)) from exc


def run_lines(
    app: Celery,
    task: Any,
    input_path: Path,
    output_path: Path,
    *,
    options: RunOptions | None = None,
    progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> RunSummary:
    """Send every line of `input_path` to `task` and write one line per line to `output_path`.

    `task` is a Celery task or its name; it takes a prompt and returns {"answer", "source", "degraded"}. An
    interrupted or killed run goes on where it stood when it is called again; setting `stop` ends it after the
    current poll. Raises RunError with one sentence; KeyRefused, which is one, when the upstream refuses the
    API key.
    """
    began = time.monotonic()
    options = options or RunOptions()
    try:
        digest = _checked_input(input_path, output_path)
        answers.check_writable(output_path)
        link = PoolLink(app, task)
        ledger_path = ledger_path_of(output_path)
        if not ledger_path.exists():  # what can be checked is checked before any file is made
            _refuse_unknown_lines(output_path)
            link.check()
        header = Header(str(uuid.uuid4()), digest.sha256, digest.size_bytes, digest.lines)
        with Ledger(ledger_path, header) as ledger, _opened_output(output_path, ledger) as output:
            if ledger.state.finished:
                elapsed_s = time.monotonic() - began
                return RunSummary.of(ledger.state, digest.lines, elapsed_s, already_complete=True)
            link.check()
            loop = RunLoop(link, ledger, output, total=digest.lines, options=options, progress=progress, stop=stop)
            return loop.run(read_prompts(input_path, skip=output.lines), began)
    except (LedgerError, OutputError, LinkError) as exc:
        raise RunError(str(exc)) from exc


def _checked_input(path: Path, output_path: Path) -> InputDigest:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist or is not a plain file"
        raise RunError(f"The input {path} {what}: give a JSONL file with one prompt per line.")
    if output_path.exists() and path.samefile(output_path):
        raise RunError(f"The output {output_path} is the input: give another file for the answers.")
    try:
        return measure(path)
    except OSError as exc:
        raise RunError(f"The input {path} cannot be read: {exc.strerror}.") from exc


def _opened_output(path: Path, ledger: Ledger) -> AnswerFile:
    if not (ledger.state.sent or ledger.state.ends):
        _refuse_unknown_lines(path)
    return AnswerFile(path, ledger.state.written_through)


def _refuse_unknown_lines(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        raise RunError(f"The output {path} is not empty and no ledger knows its lines: give another output.")
