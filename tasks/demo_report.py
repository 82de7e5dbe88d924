"""The demo's figures, counted from its input, its output and the upstreams' own request logs; nothing is assumed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from tasks.prompts import Prompt, read_prompts
from tasks.run_report import RunSummary
from tasks.upstream import Request, expected_answer


@dataclass(frozen=True)
class Kill:
    """A SIGKILL of the demo: what the worker held then, and when it all was on the queue again (None: never)."""

    worker: str
    held: int
    back_after_s: float | None


@dataclass(frozen=True)
class DemoSummary:
    """How the demo ended. `ok` is the exit code's word.

    `repeated`: prompts that the upstreams answered more than once. `open_s`: seconds in which the circuit was not
    closed. `to_recover_s`: from the end of the outage to the primary's next answer (None: it never answered again).
    """

    sent: int
    answered: int
    primary: int
    fallback: int
    lost: int
    wrong: int
    out_of_order: int
    repeated: int
    requests: int
    failed_requests: int
    resent: int
    kill: Kill | None
    open_s: float
    opens: int
    to_recover_s: float | None
    elapsed_s: float

    @property
    def ok(self) -> bool:
        return self.sent > 0 and not (self.lost or self.wrong or self.out_of_order)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2)


@dataclass(frozen=True)
class Evidence:
    """What the summary is counted from."""

    input_path: Path
    output_path: Path
    primary_log: list[Request]
    secondary_log: list[Request]
    outage_ended_at: float | None


def summarise(
    evidence: Evidence, run: RunSummary, kill: Kill | None, open_s: float, opens: int, elapsed_s: float
) -> DemoSummary:
    """Compare what went in with what came out, line by line."""
    prompts = {line.number: line for line in read_prompts(evidence.input_path) if isinstance(line, Prompt)}
    rows = [json.loads(line) for line in evidence.output_path.read_text("utf-8").splitlines()]
    answers = {row["line"]: row for row in rows if "answer" in row}
    numbers = [row["line"] for row in rows]
    sources = Counter(row["source"] for row in answers.values())
    log = [*evidence.primary_log, *evidence.secondary_log]
    return DemoSummary(
        sent=len(prompts),
        answered=len(answers),
        primary=sources["primary"],
        fallback=sources["secondary"] + sources["offline"],
        lost=len(prompts.keys() - answers.keys()),
        wrong=sum(_is_wrong(prompts, number, row) for number, row in answers.items()),
        out_of_order=int(numbers != sorted(set(numbers))),
        repeated=_repeated(prompts.values(), log),
        requests=len(log),
        failed_requests=sum(request.status != 200 for request in log),
        resent=run.resent,
        kill=kill,
        open_s=round(open_s, 1),
        opens=opens,
        to_recover_s=_to_recover_s(evidence),
        elapsed_s=round(elapsed_s, 1),
    )


def _is_wrong(prompts: dict[int, Prompt], number: int, row: dict[str, object]) -> bool:
    """An answer to a line that was never asked, or one that does not belong to its prompt."""
    prompt = prompts.get(number)
    if prompt is None:
        return True
    return row["source"] != "offline" and row["answer"] != expected_answer(prompt.text)


def _repeated(prompts: Iterable[Prompt], log: Iterable[Request]) -> int:
    asked = Counter(sha256(prompt.text.encode()).hexdigest() for prompt in prompts)
    given = Counter(request.prompt_sha256 for request in log if request.status == 200)
    return sum(max(0, given[digest] - times) for digest, times in asked.items())


def _to_recover_s(evidence: Evidence) -> float | None:
    ended = evidence.outage_ended_at
    if ended is None:
        return None
    after = [request.t for request in evidence.primary_log if request.status == 200 and request.t >= ended]
    return round(min(after) - ended, 1) if after else None
