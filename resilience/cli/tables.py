"""Circuits and what operators did, as tables for people; safe for whatever stands in a name or a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from resilience.parked import Waiting
    from resilience.quarantine.reading import Reading
    from resilience.quarantine.record import Record
    from resilience.recovery.ledger import Count, Recovery
    from resilience.recovery.parking import Lot

_COLOURS = {
    "closed": "green",
    "open": "red",
    "half_open": "yellow",
    "forced_open": "bold red",
    "disabled": "magenta",
    "metrics_only": "cyan",
}
_WIDE = 1_000  # columns for a file or a pipe: one line per circuit, so that grep finds all of it
_FIRST = ("forced_open", "open", "half_open", "disabled", "metrics_only")


def plain(text: object) -> str:
    """`text` as a terminal shows it and does nothing else: what does not print is spelled out, as \\x1b."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text))


def console() -> Console:
    """The terminal, or a file that nobody wraps lines for."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False, emoji=False)


def circuits_table(circuits: Mapping[str, Mapping[str, Any]], *, worst_first: bool = False) -> Table:
    """A line per circuit, in the order given, or with what is not closed on top."""
    from resilience.breaker.words import counted, next_of

    table = _table("circuit", "state", "calls", "next", "since", "why")
    rows = sorted(circuits.items(), key=lambda item: _place(item[1])) if worst_first else circuits.items()
    for name, row in rows:
        state = str(row["state"])
        cells = (name, state, counted(row) or "-", str(next_of(row)) or "-", _ago(row["changed_s_ago"]), _why(row))
        _add(table, *cells, state_colour=_COLOURS.get(state, "white"))
    return table


def audit_table(entries: Iterable[Mapping[str, str]], now_s: float) -> Table:
    """A line per action of an operator. `now_s` is seconds since the epoch."""
    from resilience.breaker.words import clock

    table = _table("when", "who", "did", "circuit", "for", "why", "outcome")
    for entry in entries:
        done = entry.get("done") == "true"
        outcome = f"done: {entry.get('state')}, epoch {entry.get('epoch')}" if done else "refused: it had changed"
        when = clock(int(entry["id"].partition("-")[0]) / 1000, now_s)
        who, did, circuit, why = (entry.get(key, "") for key in ("actor", "action", "circuit", "reason"))
        _add(table, when, who, did, circuit, _lasted(entry.get("ttl_s", "")), why, outcome)
    return table


def quarantine_table(records: Iterable[Record], now_s: float) -> Table:
    """A line per message, in the order given. `now_s` is seconds since the epoch."""
    from resilience.breaker.words import duration

    table = _table("id", "reason", "since", "task", "task id", "queue", "replays", "why")
    for record in records:
        since = duration(max(0.0, now_s - record.at))
        names = (record.task or "?", record.task_id or "?", record.queue or "?")
        _add(table, record.id, record.reason, since, *names, record.replays, record.detail, state_colour="yellow")
    return table


def parked_table(waitings: Iterable[Waiting]) -> Table:
    """A line per circuit and home queue."""
    table = _table("circuit", "state", "home", "messages", "parking queue")
    for waiting in waitings:
        lot, state = waiting.lot, waiting.state
        _add(
            table, lot.circuit, state, lot.home, waiting.messages, lot.queue,
            state_colour=_COLOURS.get(state, "white"),
        )  # fmt: skip
    return table


def parked_messages_table(found: Mapping[Lot, Iterable[Reading]]) -> Table:
    """A line per message, those that wait longest first."""
    table = _table("circuit", "home", "task", "task id", "priority", "retries", "arguments", "parked because")
    for lot, readings in found.items():
        for told in readings:
            why = told.hops[-1][2] if told.hops else "-"
            names = (told.task or "?", told.task_id or "?")
            _add(table, lot.circuit, lot.home, *names, told.priority, told.retries, told.arguments, why)
    return table


def audit_of_parked_table(entries: Iterable[Mapping[str, str]], now_s: float) -> Table:
    """A line per action of an operator. `now_s` is seconds since the epoch."""
    from resilience.breaker.words import clock

    table = _table("when", "who", "did", "circuit", "home", "of", "why")
    for entry in entries:
        when = clock(int(entry["id"].partition("-")[0]) / 1000, now_s)
        _add(table, when, *(entry.get(key, "") for key in ("actor", "action", "circuit", "home", "waiting", "reason")))
    return table


def audit_of_quarantine_table(entries: Iterable[Mapping[str, str]], now_s: float) -> Table:
    """A line per action of an operator. `now_s` is seconds since the epoch."""
    from resilience.breaker.words import clock

    table = _table("when", "who", "did", "messages", "to", "why")
    for entry in entries:
        when = clock(int(entry["id"].partition("-")[0]) / 1000, now_s)
        ids = entry.get("ids", "").split()
        some = " ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        who, did, to, why = (entry.get(key, "") for key in ("actor", "action", "to", "reason"))
        _add(table, when, who, did, some, to or "-", why)
    return table


def recoveries_table(found: Iterable[Recovery]) -> Table:
    """A line per recovery, in the order given."""
    from resilience.breaker.words import duration

    table = _table("strategy", "state", "since", "left", "worker", "task", "circuit", "severity", "why")
    for each in found:
        left_s = each.deadline - each.now
        left = duration(left_s) if left_s > 0 else "over time"
        about = (each.worker or "-", f"{each.task}[{each.task_id}]" if each.task else "-", each.circuit or "-")
        since = duration(max(0.0, each.now - each.since))
        _add(table, each.strategy, each.step, since, left, *about, each.severity, each.why, state_colour="yellow")
    return table


def counts_table(counts: Iterable[Count]) -> Table:
    """A line per strategy and category, in the order given."""
    table = _table("strategy", "category", "initiated", "succeeded", "failed")
    for each in counts:
        _add(table, each.strategy, each.category, each.initiated, each.succeeded, each.failed)
    return table


def _table(*headers: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in ("id", "state", "reason", "when", "did"))
    return table


def _add(table: Table, *cells: object, state_colour: str = "") -> None:
    from rich.text import Text

    texts = [Text(plain(cell)) for cell in cells]
    if state_colour:
        texts[1].stylize(state_colour)
    table.add_row(*texts)


def _place(row: Mapping[str, Any]) -> int:
    return _FIRST.index(row["state"]) if row["state"] in _FIRST else len(_FIRST)


def _why(row: Mapping[str, Any]) -> str:
    return f"{row['reason']}, opened {row['opens']} times in a row" if row["opens"] > 1 else str(row["reason"])


def _ago(seconds: float | None) -> str:
    from resilience.breaker.words import duration

    return "-" if seconds is None else duration(seconds)


def _lasted(ttl_s: str) -> str:
    from resilience.breaker.words import duration

    try:
        return duration(float(ttl_s)) if ttl_s else "-"
    except (ValueError, OverflowError):
        return ttl_s
