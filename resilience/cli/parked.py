"""`celery -A app parked ...`: tasks that wait until their circuit lets calls pass again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import Refused, Wrong, json_option, needs_redis, operator, print_json, resilience_of
from resilience.cli.tables import audit_of_parked_table, console, parked_messages_table, parked_table, plain

if TYPE_CHECKING:
    from resilience.parked import Parked

STORE = "the broker"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def parked() -> None:
    """Look at tasks that wait for their circuit, and send them home."""


@parked.command("list")
@json_option
@click.pass_context
def list_parked(context: click.Context, as_json: bool) -> None:
    """What waits, by circuit and home queue."""
    with _desk(context) as desk:
        found = desk.list()
    if as_json:
        print_json([waiting.to_json() for waiting in found])
    elif found:
        console().print(parked_table(found))
    else:
        click.echo("Nothing is parked.")


@parked.command()
@click.argument("name", metavar="QUEUE|CIRCUIT")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="The oldest so many.")
@json_option
@click.pass_context
def show(context: click.Context, name: str, limit: int, as_json: bool) -> None:
    """The tasks of a circuit, or of a home queue, that wait longest."""
    with _desk(context) as desk:
        found = desk.oldest(name, limit)
    if not as_json:
        console().print(parked_messages_table(found))
        return
    rows: list[dict[str, Any]] = [
        {
            "circuit": lot.circuit, "home": lot.home, "task": told.task, "task_id": told.task_id,
            "priority": told.priority, "retries": told.retries, "arguments": told.arguments,
            "hops": [list(hop) for hop in told.hops],
        }
        for lot, readings in found.items()
        for told in readings
    ]  # fmt: skip
    print_json(rows)


@parked.command()
@click.argument("name", metavar="[QUEUE|CIRCUIT]", required=False)
@click.option("--reason", required=True, help="Why you do it; kept in the audit.")
@click.option("--count", type=click.IntRange(1, 100_000), default=None, help="The oldest so many. Default: all.")
@click.option("--force", is_flag=True, help="Also those whose circuit is open: its workers may park them again.")
@click.option("--actor", default=None, help="Who; default: your login name.")
@json_option
@click.pass_context
def release(
    context: click.Context, name: str | None, reason: str, count: int | None, force: bool, actor: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Put tasks in front of their home queues, in their order, at once. By itself it happens at a bounded rate."""
    with _desk(context) as desk:
        outcome = desk.release(
            name, actor=operator() if actor is None else actor, reason=reason, count=count, force=force
        )
    if as_json:
        print_json({"moved": outcome.moved, "stayed": outcome.stayed})
    said = f"{outcome.moved} tasks went home"
    if outcome.stayed:
        stayed = "; ".join(f"{circuit}: {why}" for circuit, why in outcome.stayed.items())
        raise Refused(plain(f"{said}, others stay: {stayed}. See `breaker show`, or take --force"))
    if not as_json:
        click.echo(said)


@parked.command()
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
        console().print(audit_of_parked_table(entries, time.time()))
    else:
        click.echo("No operator acted yet.")


@contextmanager
def _desk(context: click.Context) -> Iterator[Parked]:
    from resilience.delivery.broker import is_redis
    from resilience.parked import NothingParkedError

    resilience = resilience_of(context)
    logging.getLogger("celeriac").addHandler(logging.NullHandler())  # Python would print there what is printed here
    if not is_redis(resilience.app.conf.broker_write_url):
        raise Wrong("tasks are parked on a Redis broker only; on others a refused task comes back by a countdown")
    try:
        with needs_redis(STORE):
            yield resilience.parked
    except NothingParkedError as error:
        raise Refused(plain(error)) from None
    except ValueError as error:
        raise Wrong(plain(error)) from None
