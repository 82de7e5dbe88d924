"""The loop of a run: look up what is under way, send what is missing, write what is known in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from tasks import answers
from tasks.answers import AnswerFile
from tasks.flight import Flight, Line
from tasks.ledger import Ledger
from tasks.ledger_state import Answered, Failed, Finished, Refused, Repeated, Sent, Written, task_id_of
from tasks.pool_link import AWAY, Outcome, PoolLink
from tasks.prompts import BadLine, Prompt
from tasks.run_report import KeyRefused, OnProgress, RunError, RunOptions, RunProgress, RunSummary

_POLL_MIN_S = 0.02
_POLL_MAX_S = 0.1
_SYNC_EVERY_S = 0.5
_HELD_LINES = 10_000  # answers that wait in memory for an earlier line; past it nothing new is sent
_EXPECTED_RESULT = '{"answer": ..., "source": ..., "degraded": ...}'


class RunLoop:
    """One attempt at a run. What it knows is in the ledger's state; here is only what is under way."""

    def __init__(
        self,
        link: PoolLink,
        ledger: Ledger,
        output: AnswerFile,
        *,
        total: int,
        options: RunOptions,
        progress: OnProgress | None,
        stop: threading.Event | None,
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._output = output
        self._total = total
        self._options = options
        self._progress = progress
        self._stop = stop or threading.Event()
        self._flight = Flight(moved_at=float("-inf"))
        self._settled: dict[int, bytes] = {}  # output lines that wait for an earlier one
        self._to_forget: list[str] = []
        self._read_through = output.lines
        self._synced_at = time.monotonic()
        self._away_since: float | None = None
        self._refused_at: float | None = None
        self._refusal = ""
        self._reported: RunProgress | None = None

    def run(self, source: Iterator[Prompt | BadLine], began: float) -> RunSummary:
        """Run until every line is written, or stop is set, or the key is refused."""
        pause_s = _POLL_MIN_S
        while self._output.lines < self._total and not self._stop.is_set() and not self._drained():
            moved = self._turn(source)
            pause_s = _POLL_MIN_S if moved else min(pause_s * 1.5, _POLL_MAX_S)
            self._report()
            if self._output.lines < self._total:
                self._stop.wait(pause_s)
        self._sync()
        if self._refused_at is not None:
            raise KeyRefused(self._refusal, self._summary(began))
        complete = self._output.lines >= self._total
        if complete:
            self._finish()
        try:
            self._forget()
        except AWAY:
            self._to_forget.clear()  # the answers are on disk, and results expire by themselves
        self._report()
        return self._summary(began, interrupted=not complete)

    # --- one turn of the loop

    def _turn(self, source: Iterator[Prompt | BadLine]) -> bool:
        """Look up, resend, send, write; True when a line ended."""
        before = self._output.lines + len(self._settled)
        try:
            self._collect()
            self._came_back()
            self._resend_overdue()
            self._send_new(source)
            self._write()
            if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
                self._sync()
                self._forget()
        except AWAY as exc:
            self._note_away(exc)
        return self._output.lines + len(self._settled) > before

    def _collect(self) -> None:
        """Take what has ended among the lines under way, all in one round trip."""
        ids = {number: self._ledger.state.lines[number].ids for number in self._flight.lines}
        found = self._link.look_up([task_id for each in ids.values() for task_id in each])
        now = time.monotonic()
        for number, its_ids in ids.items():
            self._judge(number, its_ids, found, now)

    def _judge(self, number: int, ids: list[str], found: dict[str, Outcome], now: float) -> None:
        prompt = self._flight.lines[number].prompt
        for task_id in ids:
            outcome = found.get(task_id)
            if outcome is not None and outcome.succeeded:
                self._take_answer(prompt, task_id, outcome.result)
                self._flight.ended(number, now)
                return
        last = found.get(ids[-1])
        if last is None or not last.failed or (last.worker_was_lost and self._options.resend):
            self._flight.seen(number, None if last is None or last.failed else last.mark, now)
        elif last.key_was_refused:
            self._ledger.append(Refused(number, ids[-1]))
            self._flight.ended(number, now)
            self._note_refused(last.sentence(), now)
        else:
            self._take_error(prompt, last.sentence(), task_id=ids[-1])
            self._flight.ended(number, now)

    def _resend_overdue(self) -> None:
        now = time.monotonic()
        if not self._options.resend:
            if self._flight.lines and self._flight.quiet(now, self._options.give_up_s):
                for line in list(self._flight.lines.values()):
                    why = f"No answer came within {self._options.give_up_s:g} s, and resending is off."
                    self._lose(line, why, now)
            return
        for line in self._flight.overdue(now, self._options.resend_after_s):
            sends = len(self._ledger.state.lines[line.prompt.number].ids)
            if sends >= self._options.max_sends:
                self._lose(line, f"No answer came to {sends} sends.", now)
            elif self._refused_at is None:
                self._send(line.prompt)

    def _lose(self, line: Line, why: str, now: float) -> None:
        self._take_error(line.prompt, why, kind="lost")
        self._flight.ended(line.prompt.number, now)

    def _send_new(self, source: Iterator[Prompt | BadLine]) -> None:
        """Fill the window: lines found as sent in the ledger are only looked up, the others go out."""
        for under_way in [each for each in self._flight.lines.values() if each.unsent]:
            self._publish(under_way)
        while (
            self._refused_at is None
            and len(self._flight) < self._options.window
            and self._read_through - self._output.lines < _HELD_LINES
            and self._read_through < self._total
        ):
            line = next(source, None)
            if line is None:
                raise RunError("The input became shorter while it was read: run it again with an input at rest.")
            self._read_through += 1
            self._take_up(line)

    def _take_up(self, line: Prompt | BadLine) -> None:
        known = self._ledger.state.lines.get(line.number)
        if isinstance(line, BadLine):
            self._take_error(line, line.sentence, kind="bad")
        elif known is None or known.refused:
            self._send(line)
        elif isinstance(known.end, Failed):
            self._settle(line, {"error": known.end.error})
        else:
            self._flight.sent(line, at=time.monotonic() - max(0.0, time.time() - known.at))

    def _send(self, prompt: Prompt) -> None:
        known = self._ledger.state.lines.get(prompt.number)
        n = 1 + (len(known.ids) if known else 0)
        task_id = task_id_of(self._ledger.run_id, prompt.number, n)
        self._ledger.append(Sent(prompt.number, task_id, n, round(time.time(), 3)))
        self._publish(self._flight.sent(prompt, at=time.monotonic()))

    def _publish(self, line: Line) -> None:
        line.unsent = True
        self._link.publish(line.prompt.text, self._ledger.state.lines[line.prompt.number].ids[-1])
        line.unsent = False

    # --- what a line ends with

    def _take_answer(self, prompt: Prompt, task_id: str, result: Any) -> None:
        answer = result.get("answer") if isinstance(result, dict) else None
        if not isinstance(answer, str):
            self._take_error(prompt, f"The task returned something else than {_EXPECTED_RESULT}.", task_id=task_id)
            return
        source, degraded = str(result.get("source", "unknown")), bool(result.get("degraded", False))
        self._ledger.append(Answered(prompt.number, task_id, source, degraded))
        self._settle(prompt, {"answer": answer, "source": source, "degraded": degraded})

    def _take_error(self, line: Prompt | BadLine, error: str, task_id: str | None = None, kind: str = "failed") -> None:
        self._ledger.append(Failed(line.number, task_id, error, kind))
        self._settle(line, {"error": error})

    def _settle(self, line: Prompt | BadLine, what: dict[str, Any]) -> None:
        self._settled[line.number] = answers.encode({"line": line.number, "id": line.id, **what})

    # --- the output, the results, the end

    def _write(self) -> None:
        ready: list[bytes] = []
        while (line := self._settled.pop(self._output.lines + len(ready) + 1, None)) is not None:
            ready.append(line)
        if ready:
            self._output.append(b"".join(ready), len(ready))

    def _sync(self) -> None:
        """Bring ledger and output to the disk; only then may results be forgotten."""
        state, through = self._ledger.state, self._output.lines
        self._ledger.sync()
        self._output.sync()
        if through > state.written_through:
            for number in range(state.written_through + 1, through + 1):
                if number not in state.resent and number in state.lines:
                    self._to_forget += state.lines[number].ids
            self._ledger.append(Written(through))
        self._synced_at = time.monotonic()

    def _forget(self) -> None:
        self._link.forget(self._to_forget)
        self._to_forget.clear()

    def _finish(self) -> None:
        """Look for second answers of resent lines for a bounded time; then the run is finished."""
        state = self._ledger.state
        ends = {number: state.lines[number].end for number in state.resent - state.repeated}
        others = {
            number: set(state.lines[number].ids) - {end.task_id}
            for number, end in ends.items()
            if isinstance(end, Answered)
        }
        until = time.monotonic() + self._options.settle_s
        while True:
            try:
                found = self._link.look_up([task_id for ids in others.values() for task_id in ids])
            except AWAY:
                found = {}  # counted as far as could be seen: every answer is already on disk
            for number, ids in list(others.items()):
                if any(found[task_id].succeeded for task_id in ids if task_id in found):
                    self._ledger.append(Repeated(number))
                    del others[number]
                elif all(task_id in found and found[task_id].ended for task_id in ids):
                    del others[number]
            if not others or time.monotonic() >= until or self._stop.wait(_POLL_MAX_S):
                break
        self._ledger.append(Finished())
        self._ledger.sync()
        for number in state.resent:
            self._to_forget += state.lines[number].ids

    # --- the broker away, the key refused, the report

    def _note_away(self, exc: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since >= self._options.patience_s:
            raise RunError(
                f"The broker was away for {self._options.patience_s:g} s ({type(exc).__name__}): what was "
                "answered is kept, run it again to go on."
            ) from exc

    def _came_back(self) -> None:
        if self._away_since is not None:
            self._away_since = None
            self._flight.excuse(time.monotonic())

    def _note_refused(self, sentence: str, now: float) -> None:
        if self._refused_at is None:
            self._refused_at = now
            self._refusal = (
                f"The API key was refused, so sending stopped ({sentence.rstrip('.')}): "
                "set the right key and run it again to go on."
            )

    def _drained(self) -> bool:
        """After a refused key: whether what was under way has ended, or had its time."""
        return self._refused_at is not None and (
            not self._flight.lines or time.monotonic() - self._refused_at >= self._options.settle_s
        )

    def _report(self) -> None:
        if self._progress is None:
            return
        away_s = 0.0 if self._away_since is None else round(time.monotonic() - self._away_since, 1)
        now = RunProgress.of(self._ledger.state, self._total, len(self._flight), away_s)
        if now != self._reported:
            self._reported = now
            self._progress(now)

    def _summary(self, began: float, interrupted: bool = False) -> RunSummary:
        elapsed_s = time.monotonic() - began
        return RunSummary.of(self._ledger.state, self._total, elapsed_s, interrupted=interrupted)
