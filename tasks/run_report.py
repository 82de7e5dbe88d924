"""What a run tells: its options, its progress, its summary, and the errors that end it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeAlias

from tasks.ledger_state import LedgerState

EXIT_OK = 0
EXIT_LOST = 1
EXIT_CANNOT_RUN = 2
EXIT_KEY_REFUSED = 3
EXIT_SOME_FAILED = 4
EXIT_INTERRUPTED = 130


class RunError(Exception):
    """The run cannot start or go on; the message is one sentence. Run it again to resume."""

    exit_code: ClassVar[int] = EXIT_CANNOT_RUN


class KeyRefused(RunError):  # noqa: N818 - names what happened
    """The upstream refused the API key: sending stopped, and what had been answered is kept."""

    exit_code: ClassVar[int] = EXIT_KEY_REFUSED

    def __init__(self, sentence: str, summary: RunSummary) -> None:
        super().__init__(sentence)
        self.summary = summary


@dataclass(frozen=True)
class RunOptions:
    """How a run behaves. Times in seconds."""

    window: int = 64  # lines under way at once
    resend: bool = True  # off: lines that nothing moves for `give_up_s` are lost
    resend_after_s: float = 30.0
    max_sends: int = 10
    give_up_s: float = 30.0
    patience_s: float = 60.0  # how long the broker may be away in the middle
    settle_s: float = 5.0  # how long to look for second answers of resent lines at the end

    def __post_init__(self) -> None:
        for name in ("window", "max_sends", "resend_after_s", "give_up_s"):
            if getattr(self, name) <= 0:
                raise RunError(f"The option {name} is {getattr(self, name)}: it must be above 0.")


@dataclass(frozen=True)
class RunProgress:
    """Where the run stands, over all its attempts. `away_s`: for how long the broker has been away."""

    total: int
    sent: int
    answered: int
    failed: int
    bad_lines: int
    lost: int
    resent: int
    repeated: int
    by_source: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    away_s: float = 0.0

    @classmethod
    def of(cls, state: LedgerState, total: int, in_flight: int, away_s: float) -> RunProgress:
        return cls(total=total, sent=state.sent, **_counts(state), in_flight=in_flight, away_s=away_s)

    @property
    def done(self) -> int:
        """Lines that have their answer or their error."""
        return self.answered + self.failed + self.bad_lines + self.lost


@dataclass(frozen=True)
class RunSummary:
    """How the run ended, counted over all its attempts; only `elapsed_s` is of this one."""

    total: int
    answered: int
    failed: int  # lines whose task failed for good
    bad_lines: int  # malformed lines of the input
    lost: int  # lines that nobody answered
    resent: int  # lines that were sent more than once
    repeated: int  # of these, lines that were answered more than once; the output has one answer
    by_source: dict[str, int]
    elapsed_s: float
    interrupted: bool = False
    already_complete: bool = False

    @classmethod
    def of(
        cls,
        state: LedgerState,
        total: int,
        elapsed_s: float,
        *,
        interrupted: bool = False,
        already_complete: bool = False,
    ) -> RunSummary:
        return cls(
            total=total,
            **_counts(state),
            elapsed_s=round(elapsed_s, 3),
            interrupted=interrupted,
            already_complete=already_complete,
        )

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.lost:
            return EXIT_LOST
        return EXIT_SOME_FAILED if self.failed or self.bad_lines else EXIT_OK

    def sentence(self) -> str:
        """How it ended, for a person."""
        done = self.answered + self.failed + self.bad_lines + self.lost
        counts = f"{self.answered} of {self.total} lines answered"
        for count, what in ((self.failed, "failed"), (self.bad_lines, "malformed"), (self.lost, "lost")):
            counts += f", {count} {what}" if count else ""
        if self.already_complete:
            return f"Nothing to do: the output is complete ({counts})."
        if self.interrupted:
            return f"Interrupted after {done} of {self.total} lines: run it again to go on from there."
        return f"{counts}; {self.resent} sent again, {self.repeated} repeated answers removed."

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _counts(state: LedgerState) -> dict[str, Any]:
    return {
        "answered": state.answered,
        "failed": state.ends["failed"],
        "bad_lines": state.ends["bad"],
        "lost": state.ends["lost"],
        "resent": len(state.resent),
        "repeated": len(state.repeated),
        "by_source": {source: count for source, count in sorted(state.by_source.items()) if count},
    }


OnProgress: TypeAlias = Callable[[RunProgress], None]
