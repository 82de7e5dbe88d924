"""Circuits and times in words, the same on a terminal and on a page. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

_TIME = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,15})?)\s?(?P<unit>s|m|h|d|)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}

MEANING = {
    "closed": "calls pass",
    "open": "no call passes",
    "half_open": "only probes pass, and decide whether it closes",
    "forced_open": "no call passes",
    "disabled": "every call passes and nothing is recorded",
    "metrics_only": "every call passes and is recorded, and nothing opens it",
}
"""What a state does to calls."""

_AFTERWARDS = {"forced_open": "then it is probed", "disabled": "then it is closed", "metrics_only": "then it is closed"}
FORCED = frozenset(_AFTERWARDS)
"""Names of the states that an operator sets."""


@dataclass(frozen=True)
class Next:
    """What a circuit waits for: `before` and a time of `seconds` that counts down; then, or without a time, `then`."""

    then: str = ""
    before: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.before}{duration(self.seconds)}" if self.seconds else self.then


def next_of(snapshot: Mapping[str, Any]) -> Next:
    """What ends the state of a circuit, out of its snapshot; empty for one that is closed and at rest."""
    state, forced_for_s = snapshot["state"], snapshot.get("forced_for_s")
    if state == "open":
        return Next("probe with the next call", "probe in ", float(snapshot["probe_in_s"]))
    if state == "half_open":
        return Next(f"{snapshot['probes']} under way, {snapshot['probes_passed']} passed")
    if state in FORCED:
        return (
            Next("until further notice")
            if forced_for_s is None
            else Next("ends with the next call", "ends in ", forced_for_s)
        )
    return Next("", "all calls in ", float(snapshot["ramp_s"])) if snapshot.get("ramp_s") else Next()


def what_is_true(snapshot: Mapping[str, Any], now_s: float) -> str:
    """What a circuit does to calls and until when. `now_s` is seconds since the epoch."""
    state, forced_for_s = str(snapshot["state"]), snapshot.get("forced_for_s")
    said = MEANING.get(state, "a state of a newer release")
    if state == "closed" and snapshot.get("ramp_s"):
        return f"{said}, all of them in {duration(snapshot['ramp_s'])}"
    if state not in FORCED:
        return said
    if forced_for_s is None:
        return f"{said}, until further notice"
    return f"{said}, until {clock(now_s + forced_for_s, now_s)} (in {duration(forced_for_s)}), {_AFTERWARDS[state]}"


def counted(snapshot: Mapping[str, Any]) -> str:
    """The calls of the window by how they ended: "3 of 10 failed (30%), 2 rate-limited"; "" if there were none."""
    calls = snapshot["calls"]
    if not calls:
        return ""
    extra = [(snapshot.get("rate_limited"), "rate-limited"), (snapshot.get("slow"), "slow")]
    more = "".join(f", {number} {word}" for number, word in extra if number)
    return f"{snapshot['failures']} of {calls} failed ({snapshot['failure_ratio']:.0%}){more}"


def seconds_of(text: str) -> float:
    """A length of time as people type it: 90, 30s, 10m, 2h, 1d. Raises ValueError with one sentence."""
    found = _TIME.fullmatch(text.strip())
    seconds = float(found["number"]) * _UNITS[found["unit"]] if found else 0.0
    if seconds <= 0:
        shown = repr(text if len(text) <= 40 else text[:37] + "...")
        raise ValueError(f"{shown} is not a length of time: seconds above 0, or 30s, 10m, 2h, 1d are right")
    return seconds


def duration(seconds: float) -> str:
    """Two units at most: "42 s", "4 min 12 s", "3 h 12 min", "2 d 3 h"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def clock(at_s: float, now_s: float) -> str:
    """The time of day in UTC, with the date when it was another day: for comparing with logs."""
    at = datetime.fromtimestamp(at_s, timezone.utc)
    today = datetime.fromtimestamp(now_s, timezone.utc).date()
    return f"{at:%H:%M:%S} UTC" if at.date() == today else f"{at:%Y-%m-%d %H:%M:%S} UTC"
