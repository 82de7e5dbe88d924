"""What an operator asks of a circuit, carried out in one place for the command line and for the pages."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from resilience.audit import REASON_LENGTH
from resilience.breaker.guard import Breakers
from resilience.breaker.machine import FORCES, Action
from resilience.breaker.store import Order
from resilience.breaker.words import FORCED, what_is_true
from signals.redact import redact


class UnknownCircuitError(LookupError):
    """Nobody used a circuit of this name. The message is a sentence, with the name that was meant if one is near."""

    def __init__(self, name: str, known: list[str]) -> None:
        near = nearest(name, known)
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        hint = f"did you mean {near}?" if near else f"known are: {shown or 'none yet'}"
        super().__init__(f"no circuit {name}: {hint}")


@dataclass(frozen=True)
class Receipt:
    """What came of an order: the circuit's snapshot before ({} if nobody had used it) and after.

    `done` is False if it had left the epoch that was asked for. `near` is a known name much like that of a new one.
    """

    name: str
    order: Order
    done: bool
    before: dict[str, Any]
    after: dict[str, Any]
    near: str | None = None

    def sentence(self, now_s: float) -> str:
        """What is true now. `now_s` is seconds since the epoch."""
        state, epoch = self.after["state"], self.after["epoch"]
        if not self.done:
            return (
                f"circuit {self.name} is {state} at epoch {epoch}, not {self.order.epoch}: "
                "it changed since you looked; look again"
            )
        if self.order.action is Action.AUTO and self.before["state"] not in FORCED:
            return f"circuit {self.name}: {state}, epoch {epoch}: it was not forced, so nothing changed"
        was = self.before["state"] if self.before else "new"
        said = f"circuit {self.name}: {was} -> {state}, epoch {epoch}: {what_is_true(self.after, now_s)}"
        if self.before:
            return said
        return f"{said}; no call has used it yet" + (f", did you mean {self.near}?" if self.near else "")


def carry_out(breakers: Breakers, name: str, order: Order) -> Receipt:
    """Give an order and look what came of it.

    A state can be forced on a circuit that nobody used yet; `reset` and `auto` need one that is known. Raises
    ValueError with one sentence for an order that cannot be meant, UnknownCircuitError, and STORE_ERRORS.
    """
    forces = order.action in FORCES
    length = len(" ".join(order.reason.split()))
    if length > REASON_LENGTH:
        raise ValueError(f"the reason has {length} characters: at most {REASON_LENGTH} are kept")
    if order.ttl_s is not None and not forces:
        raise ValueError(f"{order.action.value} takes no time: it is done at once")
    order.cleaned(redact)  # refuses what Redis need not be asked about
    before = breakers.snapshot(name)
    near = None
    if not before:
        known = sorted(breakers.snapshots())
        if not forces:
            raise UnknownCircuitError(name, known)
        near = nearest(name, known, cutoff=0.8)
    done = _give(breakers, name, order)
    after = breakers.snapshot(name) or {"state": "closed", "epoch": 1}  # somebody emptied Redis in between
    return Receipt(name, order, done, before, after, near)


def nearest(name: str, known: list[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _give(breakers: Breakers, name: str, order: Order) -> bool:
    actor, reason, epoch = order.actor, order.reason, order.epoch
    if order.action is Action.RESET:
        return breakers.reset(name, actor=actor, reason=reason, epoch=epoch)
    if order.action is Action.AUTO:
        return breakers.auto(name, actor=actor, reason=reason, epoch=epoch)
    force = {
        Action.FORCE_OPEN: breakers.force_open,
        Action.DISABLE: breakers.disable,
        Action.METRICS_ONLY: breakers.metrics_only,
    }[order.action]
    return force(name, actor=actor, reason=reason, epoch=epoch, ttl_s=order.ttl_s)
