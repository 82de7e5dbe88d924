"""`celery -A app recovery ...`: what is done about failures beyond a plain retry, and how often what helped."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from resilience.cli.context import Refused, json_option, needs_redis, print_json, resilience_of
from resilience.cli.orders import STORE
from resilience.cli.tables import console, counts_table, recoveries_table

if TYPE_CHECKING:
    from resilience.recovery.orchestrator import Recoveries


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def recovery() -> None:
    """Look at recoveries: what is under way, and how often what helped."""


@recovery.command("list")
@json_option
@click.pass_context
def list_recoveries(context: click.Context, as_json: bool) -> None:
    """What is under way in the whole fleet, oldest first."""
    with needs_redis(STORE):
        found = _recoveries(context).active()
    if as_json:
        print_json([dataclasses.asdict(each) for each in found])
    elif found:
        console().print(recoveries_table(found))
    else:
        click.echo("No recovery is under way.")


@recovery.command()
@json_option
@click.pass_context
def stats(context: click.Context, as_json: bool) -> None:
    """How often each strategy was tried for each category of errors, and how that ended."""
    with needs_redis(STORE):
        counts = _recoveries(context).counts()
    if as_json:
        print_json([dataclasses.asdict(each) for each in counts])
    elif counts:
        console().print(counts_table(counts))
    else:
        click.echo("Nothing was recovered from yet.")


def _recoveries(context: click.Context) -> Recoveries:
    resilience = resilience_of(context)
    if not resilience.settings.breakers_enabled:
        raise Refused("recoveries are off: resilience_breakers_enabled is False")
    return resilience.recoveries
