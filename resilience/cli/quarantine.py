"""`celery -A app quarantine ...`: messages that nobody could run, and what an operator does with them."""

from __future__ import annotations

import base64
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import Refused, Wrong, json_option, needs_redis, operator, print_json, resilience_of
from resilience.cli.tables import audit_of_quarantine_table, console, plain, quarantine_table

if TYPE_CHECKING:
    from resilience.quarantine.desk import Quarantine
    from resilience.quarantine.record import Record, Selection

STORE = "the quarantine's Redis"
PROGRESS_FROM = 20
"""Fewer messages are gone before a bar is read."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def quarantine() -> None:
    """Look at messages that could not run or were given up; send them again, or away."""


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--queue", help="Only those that came from this queue."),
        click.option("--task", help="Only those of this task."),
        click.option("--because", metavar="REASON", help="Only those with this reason, as `list` shows it."),
    ):
        command = option(command)
    return command


def _order(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        json_option,
        click.option("--actor", default=None, help="Who; default: your login name."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--all", "everything", is_flag=True, help="All that are there."),
        click.option("--reason", required=True, help="Why you do it; kept in the audit."),
        _filters,
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = option(command)
    return command


@quarantine.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="The newest so many.")
@click.option("--before", metavar="ID", default=None, help="Only older ones than this: the next page.")
@_filters
@json_option
@click.pass_context
def list_messages(
    context: click.Context, limit: int, before: str | None, because: str | None, task: str | None, queue: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """What is there, newest first."""
    with _desk(context) as desk:
        found = desk.list(limit, before=before, because=because, task=task, queue=queue)
        counts = desk.count()
    if as_json:
        print_json({"counts": counts, "messages": [record.to_json() for record in found]})
        return
    if found:
        console().print(quarantine_table(found, time.time()))
    click.echo(_counted(counts) if counts["messages"] else "The quarantine is empty.")


@quarantine.command()
@click.argument("record_id", metavar="ID")
@click.option("--raw", is_flag=True, help="The message's exact bytes and nothing else: they may hold secrets.")
@json_option
@click.pass_context
def show(context: click.Context, record_id: str, raw: bool, as_json: bool) -> None:
    """Everything known of one message. Secrets are hidden, except with --raw."""
    from resilience.quarantine.reading import shown

    with _desk(context) as desk:
        record = desk.show(record_id)
    if record is None:
        raise Refused(f"{record_id} is not in quarantine (any more)")
    message = record.raw or b""
    if raw and as_json:
        print_json({**record.to_json(), "raw_base64": base64.b64encode(message).decode()})
    elif raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(message)
    elif as_json:
        print_json({**record.to_json(), "message": shown(message)})
    else:
        for key, value in _in_words(record).items():
            click.echo(f"{key:>10}  {plain(value)}")
        click.echo(f"{'message':>10}")
        for line in json.dumps(shown(message), indent=2, ensure_ascii=False).splitlines():
            click.echo(f"{'':>10}  {plain(line)}")


@quarantine.command()
@click.option("--to", metavar="QUEUE", default=None, help="Onto this queue instead of the one that it came from.")
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(0.01, 10_000), help="Per second.")
@click.option("--force", is_flag=True, help="Expired, unreadable or often replayed ones too.")
@_order
@click.pass_context
def replay(context: click.Context, /, to: str | None, rate: float, force: bool, as_json: bool, **order: Any) -> None:
    """Put messages back onto their queues, at a bounded rate, oldest first."""
    with _desk(context) as desk:
        ids = _meant(desk, order, f"put back onto {to or 'their queues'}")
        with _progress("replaying", len(ids), as_json) as step:
            outcome = desk.replay(
                ids, actor=_actor(order), reason=order["reason"], rate_per_s=rate, to=to, force=force, on_each=step
            )
    if as_json:
        print_json({"moved": outcome.moved, "stayed": outcome.stayed})
    else:
        for record_id, why in list(outcome.stayed.items())[:20]:
            click.echo(f"{record_id} stays: {plain(why)}", err=True)
    said = f"{len(outcome.moved)} of {len(ids)} messages are on their way"
    if outcome.stayed:
        raise Refused(f"{said}; {len(outcome.stayed)} stay in quarantine")
    if not as_json:
        click.echo(said)


@quarantine.command()
@_order
@click.pass_context
def discard(context: click.Context, /, as_json: bool, **order: Any) -> None:
    """Remove messages for good."""
    with _desk(context) as desk:
        ids = _meant(desk, order, "removed for good")
        gone = desk.discard(ids, actor=_actor(order), reason=order["reason"])
    missing = sorted(set(ids) - set(gone), key=int)
    if as_json:
        print_json({"discarded": gone, "missing": missing})
    if missing:
        raise Refused(f"{len(gone)} of {len(ids)} messages are removed; not in quarantine: {', '.join(missing[:20])}")
    if not as_json:
        click.echo(f"{len(gone)} messages are removed for good")


@quarantine.command()
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000), help="The newest so many.")
@json_option
@click.pass_context
def audit(context: click.Context, count: int, as_json: bool) -> None:
    """What operators did, newest first."""
    with _desk(context) as desk:
        entries = desk.audit(count)
    if as_json:
        print_json(entries)
    elif entries:
        console().print(audit_of_quarantine_table(entries, time.time()))
    else:
        click.echo("No operator acted yet.")


@contextmanager
def _desk(context: click.Context) -> Iterator[Quarantine]:
    from resilience.settings import SettingsError

    resilience = resilience_of(context)
    logging.getLogger("celeriac").addHandler(logging.NullHandler())  # Python would print there what is printed here
    try:
        desk = resilience.quarantine
    except SettingsError as error:
        raise Wrong(str(error)) from None
    try:
        with needs_redis(STORE):
            yield desk
    except ValueError as error:
        raise Wrong(plain(error)) from None
    finally:
        desk.close()


def _meant(desk: Quarantine, order: dict[str, Any], fate: str) -> list[str]:
    """The ids that are meant, after the operator agreed."""
    ids, selection = list(dict.fromkeys(order["ids"])), _selection(order)
    chosen_by = bool(ids) + bool(selection) + bool(order["everything"])
    if chosen_by != 1:
        raise Wrong("name the messages by their ids, or by --because, --task and --queue, or take --all: one of these")
    if not ids:
        from resilience.quarantine.record import Selection

        ids = desk.chosen(selection or Selection())
        if not ids:
            raise Refused("no such message is in quarantine")
    if not order["yes"]:
        noun = "1 message" if len(ids) == 1 else f"{len(ids)} messages"
        if not sys.stdin.isatty():
            raise Wrong(f"{noun} would be {fate}: say --yes where nobody can be asked")
        click.confirm(f"{noun} will be {fate}. Go on?", abort=True, err=True)
    return ids


def _selection(order: dict[str, Any]) -> Selection | None:
    from resilience.quarantine.record import Selection

    chosen = {name: order[name] for name in ("because", "task", "queue") if order[name] is not None}
    return Selection(**chosen) if chosen else None


def _actor(order: dict[str, Any]) -> str:
    return operator() if order["actor"] is None else str(order["actor"])


@contextmanager
def _progress(what: str, total: int, as_json: bool) -> Iterator[Callable[[str], object]]:
    if as_json or total < PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda _id: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda _id: bar.advance(task)


def _counted(counts: dict[str, int]) -> str:
    reasons = ", ".join(f"{number} {name}" for name, number in counts.items() if name not in ("messages", "bytes"))
    return f"{counts['messages']} messages, {counts['bytes']} bytes: {reasons}"


def _in_words(record: Record) -> dict[str, str]:
    from resilience.breaker.words import clock, duration

    now_s = time.time()
    lines = {
        "id": record.id,
        "task": record.named,
        "reason": f"{record.reason}: {record.detail}" if record.detail else record.reason,
        "at": f"{clock(record.at, now_s)}, {duration(max(0.0, now_s - record.at))} ago",
        "queue": record.queue,
        "worker": record.worker,
        "arguments": record.arguments,
        "size": f"{record.size_bytes} bytes",
        "retries": str(record.retries or ""),
        "deaths": str(record.deaths or ""),
        "replays": str(record.replays or ""),
        "hops": "; ".join(f"{hop[0]} -> {hop[1]} ({hop[2]})" for hop in record.hops if len(hop) == 4),
        "error": json.dumps(record.error) if record.error else "",
    }
    return {key: value for key, value in lines.items() if value}
