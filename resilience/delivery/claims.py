"""A worker's claims as others see them: what a dead one held goes back, what a live one could not tell is told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, cast

from resilience import lua
from resilience.delivery.deaths import ALONE, Condemn, Suspect, blamed
from resilience.delivery.envelope import redelivered
from resilience.delivery.held import Held
from resilience.delivery.settling import Settled
from resilience.delivery.told import Told
from resilience.delivery.waits import WAITED

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

AT_ONCE, AT_ONCE_BYTES = 1_000, 32_000_000
"""Messages that go back in one step. Between two steps others take what is back already, the younger half."""


@dataclass(frozen=True)
class Inquest:
    """How a dead worker's begun tasks are judged: `limit` deaths, then once alone, then `condemn`."""

    begun: Collection[str]
    limit: int
    condemn: Condemn


class Claims:
    """Runs the same script as a worker's own turns, so that a message moves once, whoever else tries."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._turn = broker.script(lua.source(__package__, "turn.lua"))

    def tags(self, held: Held) -> list[str]:
        """Tags of what is claimed, oldest first."""
        return sorted(self._entries(held), key=int)

    def any_of(self, held: Held) -> bool:
        """Whether anything is held: claimed, or moved to the owner while it waited."""
        return bool(self._entries(held)) or any(self._broker.client.llen(wait) for wait, _ in self._waits(held))

    def begun(self, held: Held) -> set[str]:
        """Tags of what is claimed whose tasks had begun to run, as marked on the server."""
        rows = cast("set[bytes]", self._broker.client.smembers(self._broker.key(held.unbegun_key)))
        return set(self._entries(held)).difference(row.decode() for row in rows)

    def give_back(self, held: Held, inquest: Inquest | None = None) -> int:
        """Put everything claimed back to the front of its queue in its old order; returns how many messages moved.

        With an `inquest`, what had begun carries one more death, and goes where that sends it.
        """
        waits = self._waits(held)
        arrived: int = sum(self._broker.client.llen(wait) for wait, _ in waits)
        entries = self._entries(held)
        batch, size, late = Settled(), 0, 0
        for tag in sorted(entries, key=int, reverse=True):
            if len(batch.acked) + len(batch.returned) == AT_ONCE or size > AT_ONCE_BYTES:
                late += self._settle(held, batch, waits)
                batch, size, waits = Settled(), 0, []
            _judge(held.owner, tag, entries[tag], inquest, batch)
            size += len(entries[tag])
        late += self._settle(held, batch, waits)
        return len(entries) - late + arrived

    def forget(self, held: Held) -> None:
        """The owner is gone and holds nothing any more."""
        self._broker.client.delete(*(self._broker.key(key) for key in (held.claims_key, held.unbegun_key)))

    def tell(self, held: Held) -> None:
        """Tell what a live worker settled while its loop did not turn."""
        while held.unsettled:
            settled = held.settle()
            held.told(settled, self._settle(held, settled))

    def _settle(self, held: Held, settled: Settled, waits: list[tuple[str, str]] | None = None) -> int:
        names = held.turn_keys
        acked, returned = settled.acked, settled.returned
        reply = self._turn(
            keys=[*(self._broker.key(name) for name in names), *chain.from_iterable(waits or [])],
            args=[0, 0, 0, "", len(acked), *acked, len(returned), *chain.from_iterable(returned), 0],
        )
        return Told.read(cast("bytes", reply)).late

    def _waits(self, held: Held) -> list[tuple[str, str]]:
        """(list, source) of every list of a queue that the owner ever waited for."""
        fields = cast("list[bytes]", self._broker.client.hkeys(self._broker.key(held.claims_key)))
        sources = [name.decode().removeprefix(WAITED) for name in fields if name.startswith(WAITED.encode())]
        return [(self._broker.key(held.wait_key(source)), source) for source in sources]

    def _entries(self, held: Held) -> dict[str, bytes]:
        rows = cast("dict[bytes, bytes]", self._broker.client.hgetall(self._broker.key(held.claims_key)))
        return {name.decode(): value for name, value in rows.items() if name.isdigit()}


def _judge(owner: str, tag: str, entry: bytes, inquest: Inquest | None, fate: Settled) -> None:
    source, raw = _parts(entry)
    raw, where = redelivered(raw), ""
    if inquest is not None and tag in inquest.begun:
        raw, deaths, task, task_id = blamed(raw)
        if deaths > inquest.limit and inquest.condemn(Suspect(source, raw, f"{owner}:{tag}", deaths, task, task_id)):
            fate.acked.append(tag)
            return
        where = ALONE if deaths >= inquest.limit else ""
    fate.returned.append((tag, raw, where))


def _parts(entry: bytes) -> tuple[str, bytes]:
    length, _, rest = entry.partition(b":")
    return rest[: int(length)].decode(errors="surrogateescape"), rest[int(length) :]
