"""`celery -A app breaker watch`: circuits as they change; a live table, lines for a file, or JSON for a script."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from resilience.cli.context import Wrong, json_option, resilience_of
from resilience.cli.orders import as_seconds
from resilience.cli.tables import circuits_table, console, plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from resilience.breaker.feed import Change, Feed

TURN_S = 0.5


@dataclass(frozen=True)
class Turn:
    """One look. `away` says why Redis did not answer; "" if it did. `at_s` is seconds since the epoch."""

    at_s: float
    changes: list[Change]
    away: str = ""


Show = Callable[[Turn], None]


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--for", "for_s", metavar="TIME", callback=as_seconds, help="End after so long: 90, 30s, 10m. Default: with Ctrl-C."
)
@json_option
@click.pass_context
def watch(context: click.Context, names: tuple[str, ...], for_s: float | None, as_json: bool) -> None:
    """Circuits as they change, until Ctrl-C. With --json, one line per change; the first lines are how it is now."""
    from resilience.breaker.feed import Feed
    from resilience.local.interrupts import Interrupted, interruptible

    breakers = resilience_of(context).breakers
    try:
        feed = Feed(breakers, names)
    except ValueError as error:
        raise Wrong(str(error)) from None
    turns = _turns(feed, names, for_s)
    try:
        with interruptible():
            if as_json:
                _follow(turns, _as_json())
            elif sys.stdout.isatty():
                _follow_on_screen(turns, feed)
            else:
                _follow(turns, _as_lines())
    except Interrupted as interrupt:
        context.exit(0 if interrupt.exit_code == 130 else interrupt.exit_code)
    finally:
        feed.close()
        breakers.close()


def _turns(feed: Feed, names: tuple[str, ...], for_s: float | None) -> Iterator[Turn]:
    from resilience.shared_redis import STORE_ERRORS
    from signals.redact import describe

    ends_at = None if for_s is None else time.monotonic() + for_s
    looked, wait_s = False, 0.0
    while ends_at is None or time.monotonic() < ends_at:
        try:
            turn = Turn(time.time(), feed.look(wait_s))
        except STORE_ERRORS as error:
            turn = Turn(time.time(), [], describe(error))
        yield turn
        wait_s = TURN_S if ends_at is None else max(0.0, min(TURN_S, ends_at - time.monotonic()))
        if turn.away:
            time.sleep(wait_s)
        elif not looked:
            looked = True
            _say_what_is_missing(feed, names)


def _say_what_is_missing(feed: Feed, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in feed.snapshots]
    if missing:
        click.echo(f"no call has used {', '.join(missing)} yet: shown when one does (see `breaker list`)", err=True)


def _follow(turns: Iterator[Turn], show: Show) -> None:
    for turn in turns:
        show(turn)


def _as_json() -> Show:
    away = False

    def show(turn: Turn) -> None:
        nonlocal away
        at = datetime.fromtimestamp(turn.at_s, timezone.utc).isoformat(timespec="milliseconds")
        if away != bool(turn.away):
            away = bool(turn.away)
            said = {"kind": "store-away", "at": at, "error": turn.away} if away else {"kind": "store-back", "at": at}
            click.echo(json.dumps(said))
        for change in turn.changes:
            click.echo(json.dumps({"kind": "circuit-changed", "at": at, **asdict(change)}))

    return show


def _as_lines() -> Show:
    from resilience.breaker.words import clock, duration

    away = False

    def show(turn: Turn) -> None:
        nonlocal away
        at = clock(turn.at_s, turn.at_s)
        if away != bool(turn.away):
            away = bool(turn.away)
            click.echo(f"{at}  " + (f"Redis does not answer: {plain(turn.away)}" if away else "Redis answers again"))
        for change in turn.changes:
            moved = f"{change.old} -> {change.new or 'forgotten'}" if change.old else change.new
            lasts = f" for {duration(change.ends_in_s)}" if change.ends_in_s else ""
            why = f" ({change.reason})" if change.reason else ""
            click.echo(plain(f"{at}  circuit {change.name}: {moved}{lasts}, epoch {change.epoch}{why}"))

    return show


def _follow_on_screen(turns: Iterator[Turn], feed: Feed) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from resilience.breaker.words import clock

    as_of: float | None = None

    def picture(turn: Turn) -> RenderableType:
        nonlocal as_of
        if not turn.away:
            as_of = turn.at_s
        seen = "nothing yet" if as_of is None else clock(as_of, turn.at_s)
        head = Text(f"as of {seen}; Ctrl-C ends")
        if turn.away:
            head = Text(plain(f"Redis does not answer ({turn.away}); what you see is of: {seen}"), style="bold red")
        # on top, because a terminal too low for all circuits loses what is at the bottom
        if not feed.snapshots:
            return Group(head, Text("No circuit was used yet."))
        return Group(head, circuits_table(feed.snapshots, worst_first=True))

    with Live(console=console(), auto_refresh=False) as live:
        for turn in turns:
            live.update(picture(turn), refresh=True)
