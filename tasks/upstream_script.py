"""The timed script of the local chat server: which fault it shows at which second. Pure: no clock, no I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODES = ("ok", "503", "500", "429", "hang", "refuse", "flaky", "trickle", "malformed")


class ScriptError(ValueError):
    """The script cannot be played; the message is one sentence."""


@dataclass(frozen=True)
class Phase:
    """`for_s` seconds of one mode. The last phase is followed by "ok" for ever."""

    for_s: float
    mode: str
    retry_after_s: float = 1.0  # 429 only
    error_share: float = 0.5  # flaky only: this share of the requests gets 503

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ScriptError(f"Unknown mode {self.mode!r} in the script: expected one of {', '.join(MODES)}.")
        if self.for_s <= 0 or self.retry_after_s < 0 or not 0 <= self.error_share <= 1:
            raise ScriptError(f"A phase of the script has a value out of range: {self}.")


AFTER_THE_LAST = Phase(for_s=float("inf"), mode="ok")


@dataclass(frozen=True)
class Script:
    """The phases, in the order in which they are played."""

    phases: tuple[Phase, ...] = ()

    @property
    def length_s(self) -> float:
        return sum(phase.for_s for phase in self.phases)

    def at(self, elapsed_s: float) -> Phase:
        """The phase that is on `elapsed_s` seconds after the start."""
        for phase, (begin, end) in zip(self.phases, self.spans(), strict=True):
            if begin <= elapsed_s < end:
                return phase
        return AFTER_THE_LAST

    def spans(self) -> list[tuple[float, float]]:
        """Begin and end of every phase, in seconds after the start."""
        spans, begin = [], 0.0
        for phase in self.phases:
            spans.append((begin, begin + phase.for_s))
            begin += phase.for_s
        return spans

    @classmethod
    def of(cls, phases: Sequence[dict[str, Any]]) -> Script:
        """From a list of objects like {"for_s": 5, "mode": "503"}; raises ScriptError."""
        if not isinstance(phases, list | tuple):
            raise ScriptError('The script is not a list: expected [{"for_s": 5, "mode": "503"}, ...].')
        return cls(tuple(_phase(number, phase) for number, phase in enumerate(phases, start=1)))

    @classmethod
    def read(cls, text: str) -> Script:
        """From JSON, or from a file that holds it; raises ScriptError."""
        if not text.lstrip().startswith("["):
            try:
                text = Path(text).read_text("utf-8")
            except (OSError, ValueError):
                raise ScriptError(f"The script {text!r} is neither a JSON list nor a file to read.") from None
        try:
            return cls.of(json.loads(text))
        except json.JSONDecodeError as exc:
            raise ScriptError(f"The script is not JSON: {exc.msg} at line {exc.lineno}.") from None


def _phase(number: int, given: dict[str, Any]) -> Phase:
    try:
        return Phase(**given)
    except TypeError:
        raise ScriptError(
            f"Phase {number} of the script cannot be read: expected an object with for_s (seconds), mode, "
            "and if wanted retry_after_s and error_share."
        ) from None
