"""`celery -A app breaker list|show|reset|audit`: what the circuits do, and the operator's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import (
    Refused,
    Wrong,
    json_option,
    needs_redis,
    operator,
    print_json,
    resilience_of,
)

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers

STORE = "the breaker store"
_COLOURS = {"closed": "green", "open": "red", "half_open": "yellow"}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def breaker() -> None:
    """Look at circuits and take them in hand."""


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
        return
    if not found:
        click.echo("No circuit was used yet.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("circuit", "state", "failed", "probe in", "opened", "since", "why")
    for name, row in found.items():
        table.add_row(name, f"[{_COLOURS.get(row['state'], 'white')}]{row['state']}[/]", *_columns(row))
    Console().print(table)


@breaker.command()
@click.argument("name")
@json_option
@click.pass_context
def show(context: click.Context, name: str, as_json: bool) -> None:
    """Everything known of one circuit, its policy included."""
    resilience = resilience_of(context)
    with needs_redis(STORE):
        row = _known(resilience.breakers, name)
    policy = resilience.settings.policy(name).model_dump()
    if as_json:
        print_json({"name": name, **row, "policy": policy})
        return
    for key, value in {"circuit": name, **row}.items():
        click.echo(f"{key:>16}  {'' if value is None else value}")
    click.echo(f"{'policy':>16}  " + " ".join(f"{key}={value:g}" for key, value in policy.items()))


@breaker.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why; kept in the audit.")
@click.option("--epoch", type=click.IntRange(min=1), help="Only if the circuit is still at this epoch (see `show`).")
@click.option("--actor", default=None, help="Who; default: your login name.")
@json_option
@click.pass_context
def reset(context: click.Context, name: str, reason: str, epoch: int | None, actor: str | None, as_json: bool) -> None:
    """Close a circuit and forget its failures."""
    breakers = resilience_of(context).breakers
    with needs_redis(STORE):
        before = _known(breakers, name)
        done = breakers.reset(name, actor=actor or operator(), reason=reason, epoch=epoch)
        after = breakers.snapshot(name)
    if as_json:
        print_json({"name": name, "done": done, "before": before["state"], **after})
    if not done:
        raise Refused(
            f"circuit {name} is at epoch {after['epoch']}, not {epoch}: it changed since you looked; look again"
        )
    if not as_json:
        click.echo(f"circuit {name}: {before['state']} -> {after['state']}, epoch {after['epoch']}")


@breaker.command()
@click.option("--count", default=20, show_default=True, type=click.IntRange(1, 1000), help="The newest so many.")
@json_option
@click.pass_context
def audit(context: click.Context, count: int, as_json: bool) -> None:
    """What operators did, newest first."""
    breakers = resilience_of(context).breakers
    with needs_redis(STORE):
        entries = breakers.audit(count)
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        click.echo("  ".join(f"{key}={value}" for key, value in entry.items() if key != "id"))
    if not entries:
        click.echo("No operator acted yet.")


def _known(breakers: Breakers, name: str) -> dict[str, Any]:
    try:
        row = breakers.snapshot(name)
    except ValueError as error:
        raise Wrong(str(error)) from None
    if not row:
        import difflib

        names = sorted(breakers.snapshots())
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(names) or 'none yet'}"
        raise Wrong(f"no circuit {name}: {hint}")
    return row


def _columns(row: dict[str, Any]) -> tuple[str, ...]:
    failed = f"{row['failures']} of {row['calls']} ({row['failure_ratio']:.0%})" if row["calls"] else "-"
    probe = f"{row['probe_in_s']:.1f} s" if row["state"] == "open" else "-"
    since = f"{row['changed_s_ago']:.0f} s" if row["changed_s_ago"] is not None else "-"
    return failed, probe, str(row["opens"]), since, row["reason"]
