"""What an operator asks of `Breakers`, and has it do. Audited; all of it raises while Redis is away."""

from __future__ import annotations

from typing import Any

from resilience.breaker.machine import Action, State
from resilience.breaker.policies import Policies
from resilience.breaker.policy import check_name
from resilience.breaker.snapshot import snapshot_of
from resilience.breaker.store import CircuitStore, Order, Reply
from signals.redact import redact


class Operating:
    """A part of `Breakers`."""

    _store: CircuitStore
    _policy: Policies

    def _learn(self, name: str, reply: Reply, actor: str = "") -> None:
        raise NotImplementedError

    def get_state(self, name: str) -> str:
        """closed, open, half_open, forced_open, disabled or metrics_only, asked of the store (unused: closed)."""
        return str(self.snapshot(name).get("state", State.CLOSED.value))

    def snapshot(self, name: str) -> dict[str, Any]:
        """Everything the store knows of a circuit; {} for one that nobody used. Raises when Redis is away."""
        return self.snapshots([check_name(name)]).get(name, {})

    def snapshots(self, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """Snapshots of the named circuits, or of all, by name. Raises when Redis is away."""
        names = sorted(self._store.index()) if names is None else names
        now_ms = self._store.server_time_ms()
        rows = self._store.describe(names, now_ms)
        return {name: snapshot_of(fields, now_ms, self._policy(name)) for name, fields in rows.items()}

    def reset(self, name: str, *, actor: str, reason: str, epoch: int | None = None) -> bool:
        """Close a circuit and forget its failures. With `epoch`, only if it is still at that epoch; False if not.

        This and the four below are audited, and raise when Redis is away: an operator's word must not get lost
        silently. A `ttl_s` ends a forced state by itself.
        """
        return self._order(name, Order(Action.RESET, actor, reason, epoch))

    def force_open(
        self, name: str, *, actor: str, reason: str, epoch: int | None = None, ttl_s: float | None = None
    ) -> bool:
        """Let nothing pass, until `auto`, `reset`, or the time is over; then it is probed as after any opening."""
        return self._order(name, Order(Action.FORCE_OPEN, actor, reason, epoch, ttl_s))

    def disable(
        self, name: str, *, actor: str, reason: str, epoch: int | None = None, ttl_s: float | None = None
    ) -> bool:
        """Let everything pass and record nothing."""
        return self._order(name, Order(Action.DISABLE, actor, reason, epoch, ttl_s))

    def metrics_only(
        self, name: str, *, actor: str, reason: str, epoch: int | None = None, ttl_s: float | None = None
    ) -> bool:
        """Let everything pass and record everything: to see what a policy would do."""
        return self._order(name, Order(Action.METRICS_ONLY, actor, reason, epoch, ttl_s))

    def auto(self, name: str, *, actor: str, reason: str, epoch: int | None = None) -> bool:
        """End a forced state: a forced-open circuit is probed, the others are closed. Otherwise nothing happens."""
        return self._order(name, Order(Action.AUTO, actor, reason, epoch))

    def _order(self, name: str, order: Order) -> bool:
        check_name(name)
        clean = order.cleaned(redact)
        reply = self._store.order(name, self._policy(name), clean)
        self._learn(name, reply, clean.actor)
        return reply.granted

    def audit(self, count: int = 50) -> list[dict[str, str]]:
        """The newest operator actions first."""
        return self._store.audit_entries(count)
