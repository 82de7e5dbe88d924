"""The changes of circuits as they happen, for who only looks on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from resilience.breaker.guard import Breakers
from resilience.breaker.policy import check_name
from resilience.breaker.store import NO_END, CircuitStore, parse_push, pushes
from resilience.shared_redis import STORE_ERRORS


@dataclass(frozen=True)
class Change:
    """A circuit is in another state, or in the same one anew. `old` None: first seen. `new` None: Redis forgot it.

    `ends_in_s`: seconds until the state or the ramp ends by itself, None if nothing does.
    """

    name: str
    old: str | None
    new: str | None
    epoch: int
    reason: str = ""
    ends_in_s: float | None = None


class Feed:
    """Changes of the circuits `names`, or of all. Pushed by the store, and looked up at every look as a backstop.

    For one thread. `snapshots` is what the last look saw. Raises ValueError for an unusable name.
    """

    def __init__(self, breakers: Breakers, names: Collection[str] = ()) -> None:
        self._breakers, self._store = breakers, CircuitStore(breakers.shared)
        self._names = [check_name(name) for name in names]
        self._known: dict[str, tuple[str, int]] = {}
        self._found: dict[str, tuple[str, int]] | None = None
        self._subscription: redis.client.PubSub | None = None
        self.snapshots: dict[str, dict[str, Any]] = {}

    def look(self, wait_s: float) -> list[Change]:
        """What changed since the last look; at the first, every circuit. Waits up to `wait_s` for the first change.

        Raises STORE_ERRORS while Redis is away; what changed meanwhile is told by the first look that succeeds.
        """
        try:
            pushed = list(self._pushed(wait_s))
            snapshots = self._breakers.snapshots(self._names or None)
        except STORE_ERRORS:
            self.close()
            raise
        self.snapshots = snapshots
        return [*self._as_told(pushed), *self._as_found()]

    def close(self) -> None:
        """Stop listening. A later look listens again."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def _pushed(self, wait_s: float) -> Iterator[Change]:
        if self._subscription is None:
            self._subscription = self._store.listen()
            return
        for text in pushes(self._subscription, wait_s):
            try:
                name, entry = parse_push(text)
            except ValueError:
                continue  # words of a stranger; the snapshots are looked at in any case
            if name in self._names or not self._names:
                ends_in_s = None if entry.remaining_ms == NO_END else entry.remaining_ms / 1000
                yield Change(name, None, entry.state.value, entry.epoch, ends_in_s=ends_in_s)

    def _as_told(self, pushed: list[Change]) -> Iterator[Change]:
        """Every step, also of a circuit that took several since the last look; the reason of the last is known."""
        for change in pushed:
            old, epoch = self._known.get(change.name, (None, 0))
            if change.new is None or change.epoch <= epoch:
                continue  # the last look saw it already
            self._known[change.name] = (change.new, change.epoch)
            row = self.snapshots.get(change.name, {})
            reason = str(row.get("reason", "")) if row.get("epoch") == change.epoch else ""
            yield Change(change.name, old, change.new, change.epoch, reason, change.ends_in_s)

    def _as_found(self) -> Iterator[Change]:
        """What no push told. At its second sight only: the first may be quicker than the pushes of all steps to it."""
        found = {name: (str(row["state"]), int(row["epoch"])) for name, row in self.snapshots.items()}
        before, self._found = self._found, found
        for name, (state, epoch) in found.items():
            old, known_epoch = self._known.get(name, (None, 0))
            if (old, known_epoch) != (state, epoch) and (before is None or before.get(name) == (state, epoch)):
                self._known[name] = (state, epoch)
                row = self.snapshots[name]
                yield Change(name, old, state, epoch, str(row["reason"]), _ends_in_s(row))
        for name in self._known.keys() - found.keys():
            old, epoch = self._known.pop(name)
            yield Change(name, old, None, epoch, "Redis was emptied")


def _ends_in_s(row: dict[str, Any]) -> float | None:
    return row["probe_in_s"] or row["ramp_s"] or row["forced_for_s"] or None
