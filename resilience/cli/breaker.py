"""`celery -A app breaker ...`: what the circuits do. The operator's word is in `orders`, the live view in `watch`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import Wrong, json_option, needs_redis, print_json, resilience_of
from resilience.cli.orders import ORDERS, STORE
from resilience.cli.tables import audit_table, circuits_table, console, plain
from resilience.cli.watch import watch

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers
    from resilience.breaker.policy import BreakerPolicy

_KEPT = 20_000  # more than the audit stream holds


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def breaker() -> None:
    """Look at circuits and take them in hand."""


for _command in (*ORDERS, watch):
    breaker.add_command(_command)


@breaker.command("list")
@json_option
@click.pass_context
def list_circuits(context: click.Context, as_json: bool) -> None:
    """Every circuit, with its state and what it counted."""
    breakers = resilience_of(context).breakers
    with needs_redis(STORE):
        found = breakers.snapshots()
    if as_json:
        print_json(found)
    elif found:
        console().print(circuits_table(found))
    else:
        click.echo("No circuit was used yet.")


@breaker.command()
@click.argument("name")
@json_option
@click.pass_context
def show(context: click.Context, name: str, as_json: bool) -> None:
    """Everything known of one circuit, its policy included."""
    resilience = resilience_of(context)
    with needs_redis(STORE):
        row = _known(resilience.breakers, name)
    policy = _plain_rules(resilience.settings.policy(name))
    if as_json:
        print_json({"name": name, **row, "policy": policy})
        return
    for key, value in _in_words(name, row).items():
        click.echo(f"{key:>10}  {plain(value)}")
    click.echo(f"{'policy':>10}  by the settings of this app")
    for rule, value in policy.items():
        click.echo(f"{'':>10}  {rule} = {_rule_in_words(value)}")


@breaker.command()
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000), help="The newest so many.")
@click.option("--circuit", default=None, help="Only what was done to this circuit.")
@json_option
@click.pass_context
def audit(context: click.Context, count: int, circuit: str | None, as_json: bool) -> None:
    """What operators did, newest first."""
    breakers = resilience_of(context).breakers
    with needs_redis(STORE):
        if circuit is None:
            entries = breakers.audit(count)
        else:
            entries = [entry for entry in breakers.audit(_KEPT) if entry.get("circuit") == circuit][:count]
    if as_json:
        print_json(entries)
    elif entries:
        console().print(audit_table(entries, time.time()))
    else:
        click.echo(
            "No operator acted yet." if circuit is None else f"No operator acted on circuit {plain(circuit)} yet."
        )


def _known(breakers: Breakers, name: str) -> dict[str, Any]:
    from resilience.breaker.orders import UnknownCircuitError

    try:
        row = breakers.snapshot(name)
    except ValueError as error:
        raise Wrong(str(error)) from None
    if not row:
        raise Wrong(plain(UnknownCircuitError(name, sorted(breakers.snapshots()))))
    return row


def _plain_rules(policy: BreakerPolicy) -> dict[str, Any]:
    values = policy.model_dump(mode="json").items()
    return {rule: sorted(value) if isinstance(value, list) else value for rule, value in values}


def _in_words(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    from resilience.breaker.words import clock, counted, duration, next_of, what_is_true

    now_s, ago = time.time(), row["changed_s_ago"]
    lines = {
        "circuit": name,
        "state": f"{row['state']}: {what_is_true(row, now_s)}",
        "next": str(next_of(row)),
        "epoch": str(row["epoch"]),
        "calls": counted(row) or "none in the window",
        "streak": f"{row['streak']} failures in a row" if row["streak"] else "",
        "opened": ("once" if row["opens"] == 1 else f"{row['opens']} times in a row") if row["opens"] else "",
        "since": "" if ago is None else f"{clock(now_s - ago, now_s)}, {duration(ago)} ago",
        "why": row["reason"],
    }
    return {key: value for key, value in lines.items() if value}


def _rule_in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "off" if value is None else f"{value:g}"
