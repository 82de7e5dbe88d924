"""`celery -A app breaker reset|force-open|disable|metrics-only|auto`: the operator's word, given in one way."""

from __future__ import annotations

import logging
import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import Refused, Wrong, json_option, needs_redis, operator, print_json, resilience_of
from resilience.cli.pool import app_argument
from resilience.cli.tables import plain

if TYPE_CHECKING:
    from resilience.breaker.orders import Receipt

STORE = "the breaker store"


def as_seconds(context: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """For options that take a length of time: seconds, or 30s, 10m, 2h, 1d."""
    from resilience.breaker.words import seconds_of

    try:
        return None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(plain(error), context, param) from None


def _command(action: str, help_text: str, *, forces: bool = False) -> click.Command:
    @click.command(action, help=help_text)
    @click.argument("name")
    @click.option("--reason", required=True, help="Why; kept in the audit.")
    @click.option(
        "--epoch", type=click.IntRange(min=1), help="Only if the circuit is still at this epoch (see `show`)."
    )
    @click.option("--actor", default=None, help="Who; default: your login name.")
    @json_option
    @click.pass_context
    def command(
        context: click.Context, name: str, reason: str, epoch: int | None, actor: str | None, as_json: bool,
        ttl_s: float | None = None,
    ) -> None:  # fmt: skip
        from resilience.breaker.machine import Action
        from resilience.breaker.store import Order

        order = Order(Action(action), operator() if actor is None else actor, reason, epoch, ttl_s)
        _give(context, name, order, as_json)

    if forces:
        ttl = click.option(
            "--ttl",
            "ttl_s",
            metavar="TIME",
            callback=as_seconds,
            help="End by itself after so long: 90, 30s, 10m, 2h. Default: never.",
        )
        ttl(command)
    return command


ORDERS = (
    _command("reset", "Close a circuit and forget its failures."),
    _command("force-open", "Let no call through a circuit; when that ends, probes decide.", forces=True),
    _command("disable", "Let every call through a circuit and record nothing.", forces=True),
    _command("metrics-only", "Let every call through a circuit and record it: what would it do?", forces=True),
    _command("auto", "End what force-open, disable or metrics-only began."),
)


def _give(context: click.Context, name: str, order: Any, as_json: bool) -> None:
    from resilience.breaker.orders import UnknownCircuitError, carry_out

    breakers = resilience_of(context).breakers
    logging.getLogger("celeriac").addHandler(logging.NullHandler())  # Python would print there what is printed here
    try:
        with needs_redis(STORE):
            receipt = carry_out(breakers, name, order)
    except (ValueError, UnknownCircuitError) as error:
        raise Wrong(plain(error)) from None
    if as_json:
        before = receipt.before.get("state")
        print_json({"name": name, "done": receipt.done, "new": not receipt.before, "before": before, **receipt.after})
    said = receipt.sentence(time.time())
    if not receipt.done:
        raise Refused(plain(said))
    if not as_json:
        click.echo(plain(said + _undo(receipt)))


def _undo(receipt: Receipt) -> str:
    from resilience.breaker.words import FORCED

    if receipt.after["state"] not in FORCED:
        return ""
    return f"; undo: celery -A {shlex.quote(app_argument())} breaker auto {receipt.name} --reason ..."
