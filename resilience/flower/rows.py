"""A snapshot of a circuit as a line of the page: words, colours, order, and what an operator may do to it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resilience.breaker.words import FORCED, MEANING, Next, clock, duration, next_of

# state -> (word, Bootstrap colour, place in the table); a state not named here comes before what is fine
_STATES = {
    "open": ("Open", "danger", 0),
    "forced_open": ("Forced open", "danger", 1),
    "half_open": ("Half-open", "warning", 2),
    "disabled": ("Disabled", "dark", 3),
    "metrics_only": ("Metrics only", "info", 4),
    "closed": ("Closed", "success", 6),
}
_PLACE_OF_THE_UNKNOWN = 5

_CHOICES = {
    "reset": "Close it and forget its failures",
    "force-open": "Force open: no call passes",
    "disable": "Disable: all pass, nothing is recorded",
    "metrics-only": "Metrics only: all pass and are recorded",
}
_AUTO = {"auto": "Back to automatic"}


@dataclass(frozen=True)
class CircuitRow:
    """One line of the table. `since` and `ago` are "" if unknown; `choices` are the actions, the likely one first."""

    name: str
    state: str
    word: str
    meaning: str
    colour: str
    place: int
    epoch: int
    calls: int
    failure_percent: int
    limited: int
    slow: int
    streak: int
    next: Next
    probes: int
    probes_allowed: int
    probes_passed: int
    opens: int
    since: str
    ago: str
    reason: str
    choices: Mapping[str, str]


def rows_of(
    circuits: Mapping[str, Mapping[str, Any]], probes_allowed: Callable[[str], int], now_s: float
) -> list[CircuitRow]:
    """The table: open circuits first, closed ones last, then by name. `now_s` is seconds since the epoch."""
    rows = [_row(name, snapshot, probes_allowed(name), now_s) for name, snapshot in circuits.items()]
    return sorted(rows, key=lambda row: (row.place, row.name))


def totals(rows: list[CircuitRow]) -> dict[str, int]:
    """How many circuits are in each state; `forced`: in one of those that operators set."""
    counts = Counter(row.state for row in rows)
    return {**counts, "forced": sum(counts[state] for state in FORCED)}


def audit_line(entry: Mapping[str, str], now_s: float) -> dict[str, str]:
    """An audit entry with its time of day as `at` and its time limit in words as `lasts`."""
    try:
        lasts = f"for {duration(float(entry.get('ttl_s') or 0))}" if entry.get("ttl_s") else ""
    except (ValueError, OverflowError):
        lasts = ""  # no number: written by a stranger
    return {**entry, "at": clock(int(entry["id"].partition("-")[0]) / 1000, now_s), "lasts": lasts}


def _row(name: str, snapshot: Mapping[str, Any], probes_allowed: int, now_s: float) -> CircuitRow:
    state = str(snapshot["state"])
    unknown = (state.replace("_", " ").capitalize(), "secondary", _PLACE_OF_THE_UNKNOWN)
    word, colour, place = _STATES.get(state, unknown)
    changed_s_ago = snapshot["changed_s_ago"]
    return CircuitRow(
        name=name,
        state=state,
        word=word,
        meaning=MEANING.get(state, ""),
        colour=colour,
        place=place,
        epoch=int(snapshot["epoch"]),
        calls=int(snapshot["calls"]),
        failure_percent=round(100 * snapshot["failure_ratio"]),
        limited=int(snapshot["rate_limited"]),
        slow=int(snapshot["slow"]),
        streak=int(snapshot["streak"]),
        next=next_of(snapshot),
        probes=int(snapshot["probes"]),
        probes_allowed=probes_allowed,
        probes_passed=int(snapshot["probes_passed"]),
        opens=int(snapshot["opens"]),
        since=clock(now_s - changed_s_ago, now_s) if changed_s_ago is not None else "",
        ago=duration(changed_s_ago) if changed_s_ago is not None else "",
        reason=str(snapshot["reason"]),
        choices={**_AUTO, **_CHOICES} if state in FORCED else _CHOICES,
    )
