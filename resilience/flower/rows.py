"""A snapshot of a circuit as a person reads it: words, order and durations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

# state -> (word, Bootstrap colour, place in the table); a state not named here comes before what is fine
_STATES = {
    "open": ("Open", "danger", 0),
    "half_open": ("Half-open", "warning", 1),
    "closed": ("Closed", "success", 3),
}


@dataclass(frozen=True)
class CircuitRow:
    """One line of the table. `probe_in_s` is None unless it is open; `since` and `ago` are "" if unknown."""

    name: str
    state: str
    word: str
    colour: str
    place: int
    epoch: int
    calls: int
    failures: int
    failure_percent: int
    streak: int
    probe_in_s: float | None
    probe_in: str
    probes: int
    probes_allowed: int
    opens: int
    since: str
    ago: str
    reason: str


def rows_of(
    circuits: Mapping[str, Mapping[str, Any]], probes_allowed: Callable[[str], int], now_s: float
) -> list[CircuitRow]:
    """The table: open circuits first, closed ones last, then by name. `now_s` is seconds since the epoch."""
    rows = [_row(name, snapshot, probes_allowed(name), now_s) for name, snapshot in circuits.items()]
    return sorted(rows, key=lambda row: (row.place, row.name))


def totals(rows: list[CircuitRow]) -> dict[str, int]:
    """How many circuits are in each state."""
    return dict(Counter(row.state for row in rows))


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


def _row(name: str, snapshot: Mapping[str, Any], probes_allowed: int, now_s: float) -> CircuitRow:
    state = str(snapshot["state"])
    word, colour, place = _STATES.get(state, (state.replace("_", " ").capitalize(), "secondary", 2))
    probe_in_s = float(snapshot["probe_in_s"]) if state == "open" else None
    changed_s_ago = snapshot["changed_s_ago"]
    return CircuitRow(
        name=name,
        state=state,
        word=word,
        colour=colour,
        place=place,
        epoch=int(snapshot["epoch"]),
        calls=int(snapshot["calls"]),
        failures=int(snapshot["failures"]),
        failure_percent=round(100 * snapshot["failure_ratio"]),
        streak=int(snapshot["streak"]),
        probe_in_s=probe_in_s,
        probe_in=f"in {duration(probe_in_s)}" if probe_in_s else "with the next call",
        probes=int(snapshot["probes"]),
        probes_allowed=probes_allowed,
        opens=int(snapshot["opens"]),
        since=clock(now_s - changed_s_ago, now_s) if changed_s_ago is not None else "",
        ago=duration(changed_s_ago) if changed_s_ago is not None else "",
        reason=str(snapshot["reason"]),
    )
