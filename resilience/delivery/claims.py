"""A worker's claims as others see them: what a dead one held goes back, what a live one could not tell is told."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, cast

from resilience import lua
from resilience.delivery.channel import COUNTER, WAITED, redelivered
from resilience.delivery.held import Held

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

AT_ONCE = 100


class Claims:
    """Runs the same script as a worker's own turns, so that a message moves once, whoever else tries."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._turn = broker.script(lua.source(__package__, "turn.lua"))

    def tags(self, held: Held) -> list[str]:
        """Tags of what is claimed, oldest first."""
        return sorted(self._entries(held), key=int)

    def give_back(self, held: Held) -> int:
        """Put everything claimed back to the front of its queue in its old order; returns how many messages moved."""
        entries = self._entries(held)
        newest_first = sorted(entries, key=int, reverse=True)
        late = 0
        for first in range(0, len(newest_first), AT_ONCE):
            batch = [(tag, redelivered(_message(entries[tag])), "") for tag in newest_first[first : first + AT_ONCE]]
            late += self._settle(held, [], batch, [])
        waited = [name.decode().removeprefix(WAITED) for name in self._fields(held) if name.startswith(WAITED.encode())]
        waits = [(self._broker.key(held.wait_key(source)), source) for source in waited]
        arrived: int = sum(self._broker.client.llen(wait) for wait, _ in waits)
        self._settle(held, [], [], waits)
        return len(entries) - late + arrived

    def forget(self, held: Held) -> None:
        """The owner is gone and holds nothing any more."""
        self._broker.client.delete(self._broker.key(held.claims_key))

    def tell(self, held: Held) -> None:
        """Tell what a live worker settled while its loop did not turn."""
        while held.waits_to_be_told:
            settled = held.settle()
            held.late += self._settle(held, settled.acked, settled.returned, [])
            held.told(settled)

    def _settle(
        self, held: Held, acked: list[str], returned: list[tuple[str, bytes, str]], waits: list[tuple[str, str]]
    ) -> int:
        reply = self._turn(
            keys=[self._broker.key(held.claims_key), self._broker.key(held.delayed_key), *chain.from_iterable(waits)],
            args=[0, 0, 0, len(acked), *acked, len(returned), *chain.from_iterable(returned)],
        )
        return int(cast("list[int]", reply)[0])

    def _fields(self, held: Held) -> list[bytes]:
        return cast("list[bytes]", self._broker.client.hkeys(self._broker.key(held.claims_key)))

    def _entries(self, held: Held) -> dict[str, bytes]:
        rows = cast("dict[bytes, bytes]", self._broker.client.hgetall(self._broker.key(held.claims_key)))
        return {
            name.decode(): value
            for name, value in rows.items()
            if name != COUNTER.encode() and not name.startswith(WAITED.encode())
        }


def _message(entry: bytes) -> bytes:
    length, _, rest = entry.partition(b":")
    return rest[int(length) :]
