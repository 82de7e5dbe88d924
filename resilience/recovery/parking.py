"""The parking place: queues that no worker consumes, for tasks whose circuit is open at every level.

A parked message is an ordinary message on `<namespace>.parked.<circuit>|<home queue>`: it survives every restart and
is listed like a queue. When the circuit lets calls pass again, the workers' upkeep moves messages back to the front of
their home queue, oldest first, at a bounded rate: those of the next step when workers have taken the last ones, so that
none gets in front of an older one. One that finds the circuit open again goes behind the others, so that no message can
be the probe for ever. An index names the parking queues, so that nobody scans for them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from resilience import lua
from resilience.delivery.onward import readdressed

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker


REINDEX_S = 1.0
AT_ONCE = 100
FRESH_S = 3600
"""A parking queue in which nothing waits is forgotten so long after somebody asked for it; parking takes seconds."""

FORGET_EVERY_S = 60.0
MOST_KNOWN = 1_000


@dataclass(frozen=True)
class Lot:
    """Messages of `circuit` that belong on the queue `home`; they wait in the lists of `queue`."""

    queue: str
    circuit: str
    home: str


class Parking:
    """Names of parking queues, and the way back from them. `broker` opens a client of the broker's database."""

    def __init__(self, namespace: str, release_rate: float, broker: Callable[[], Broker]) -> None:
        self._prefix = f"{namespace}.parked."
        self._index = f"{namespace}:v1:parked"
        self._rate = release_rate
        self._broker = broker
        self._indexed_at: dict[str, float] = {}
        self._allowance = 0.0
        self._ramps: dict[str, float] = {}
        self._since_forgot_s = 0.0

    def queue_for(self, home: str, circuit: str) -> str:
        """Where a task of `circuit` waits that belongs on `home`, indexed. Raises when the broker is away."""
        queue = f"{self._prefix}{circuit}|{home}"
        now = time.monotonic()
        if now - self._indexed_at.get(queue, -math.inf) >= REINDEX_S:
            broker = self._broker()
            try:
                pipe = broker.client.pipeline()
                pipe.sadd(broker.key(self._index), queue)
                pipe.set(broker.key(self._fresh(queue)), 1, ex=FRESH_S)
                pipe.execute()
            finally:
                broker.close()
            if len(self._indexed_at) >= MOST_KNOWN:
                self._indexed_at.clear()
            self._indexed_at[queue] = now  # not once and for all: somebody may empty Redis
        return queue

    def release(
        self,
        broker: Broker,
        refuses: Callable[[str], bool],
        share: Callable[[str], float],
        elapsed_s: float,
        sharers: Callable[[], int] = lambda: 1,
    ) -> int:
        """Move what may run again; called every beat, `elapsed_s` after the last call. Returns how many moved.

        A circuit through which only a share of the calls passes gets that share of the rate, at least one message: it
        may be the probe. More would only come back.
        """
        self._since_forgot_s += elapsed_s
        if self._since_forgot_s >= FORGET_EVERY_S:
            self._since_forgot_s = 0.0
            self.forget_empty(broker)
        waiting = self._waiting(broker)
        if not waiting:
            self._allowance = 0.0
            self._ramps.clear()
            return 0
        mine = self._rate / max(1, sharers())  # the rate is the fleet's
        self._allowance = min(self._allowance + mine * elapsed_s, max(mine, 1.0))
        passing = {lot.circuit: share(lot.circuit) for lot, _ in waiting if not refuses(lot.circuit)}
        self._ramps = {
            circuit: min(self._ramps.get(circuit, 0.0) + mine * elapsed_s * part, max(mine * part, 1.0))
            for circuit, part in passing.items()
        }
        moved = 0
        for lot, suffix in waiting:
            if lot.circuit not in passing or self._allowance < 1:
                continue
            most = math.floor(min(self._allowance, self._ramps[lot.circuit]))
            count = self.move_oldest(broker, lot, suffix, most if passing[lot.circuit] else 1)
            self._allowance -= count
            self._ramps[lot.circuit] = max(0.0, self._ramps[lot.circuit] - count)  # probes are no debt
            moved += count
        return moved

    def move_oldest(self, broker: Broker, lot: Lot, suffix: str, most: int) -> int:
        """Move the oldest of one priority to the front of their home queue; 0 before the last ones are taken there."""
        source = broker.key(lot.queue + suffix)
        batch = cast("list[bytes]", broker.client.lrange(source, -most, -1)) if most > 0 else []
        return self._move(broker, lot, suffix, -1, batch, broker.key(f"{self._index}:last:{lot.home}{suffix}"))

    def release_all(self, broker: Broker) -> int:
        """Move everything to the front of its home queue at once, whatever its circuit says; returns how many."""
        return sum(self.release_lot(broker, lot) for lot in self.lots(broker))

    def release_lot(self, broker: Broker, lot: Lot, most: int | None = None) -> int:
        """The same for one circuit and home: all, or the oldest `most`, higher priorities first."""
        moved = 0
        for suffix in broker.priority_suffixes:
            if most is None:
                moved += self._release_list(broker, lot, suffix)
            elif moved < most:
                moved += self._release_oldest(broker, lot, suffix, most - moved)
        return moved

    def oldest(self, broker: Broker, lot: Lot, most: int) -> list[bytes]:
        """The messages that wait longest, higher priorities first, in their order."""
        found: list[bytes] = []
        for suffix in broker.priority_suffixes:
            left = most - len(found)
            if left:
                found += reversed(cast("list[bytes]", broker.client.lrange(broker.key(lot.queue + suffix), -left, -1)))
        return found

    def _release_list(self, broker: Broker, lot: Lot, suffix: str) -> int:
        source = broker.key(lot.queue + suffix)
        left, moved, step = broker.client.llen(source), 0, 1  # workers may park it again meanwhile: not without end
        while step and moved < left:  # the newest first, so that the oldest lies in front of all
            batch = cast("list[bytes]", broker.client.lrange(source, 0, min(AT_ONCE, left - moved) - 1))
            step = self._move(broker, lot, suffix, 1, batch)
            moved += step
        return moved

    def _release_oldest(self, broker: Broker, lot: Lot, suffix: str, most: int) -> int:
        oldest = cast("list[bytes]", broker.client.lrange(broker.key(lot.queue + suffix), -most, -1))
        batches = (oldest[first : first + AT_ONCE] for first in range(0, len(oldest), AT_ONCE))
        return sum(self._move(broker, lot, suffix, -1, batch) for batch in batches)  # the newest of them first

    def _move(self, broker: Broker, lot: Lot, suffix: str, side: int, batch: list[bytes], *last: str) -> int:
        script = broker.script(lua.source(__package__, "release.lua"))
        keys = [broker.key(lot.queue + suffix), broker.key(lot.home + suffix), *last]
        return int(script(keys=keys, args=[side, *_pairs(batch, lot.home)])) if batch else 0

    def lots(self, broker: Broker) -> dict[Lot, dict[str, int]]:
        """Where something waits: how many messages by priority suffix, higher priorities first."""
        members = cast("set[bytes]", broker.client.smembers(broker.key(self._index)))
        lots = [self._lot(name.decode()) for name in sorted(members)]
        lists = [(lot, suffix) for lot in lots if lot.home for suffix in broker.priority_suffixes]
        pipe = broker.client.pipeline(transaction=False)
        for lot, suffix in lists:
            pipe.llen(broker.key(lot.queue + suffix))
        lengths = pipe.execute() if lists else []
        found: dict[Lot, dict[str, int]] = {}
        for (lot, suffix), length in zip(lists, lengths, strict=True):
            if length:
                found.setdefault(lot, {})[suffix] = length
        return found

    def forget_empty(self, broker: Broker) -> int:
        """Take queues out of the index that nobody uses any more: each costs every worker a look at every beat."""
        members = cast("set[bytes]", broker.client.smembers(broker.key(self._index)))
        used = {lot.queue for lot in self.lots(broker)}
        script = broker.script(lua.source(__package__, "forget.lua"))
        forgotten = 0
        for queue in sorted({name.decode() for name in members} - used):
            lists = (broker.key(queue + suffix) for suffix in broker.priority_suffixes)
            keys = [broker.key(self._index), broker.key(self._fresh(queue)), *lists]
            forgotten += int(script(keys=keys, args=[queue]))
        return forgotten

    def _fresh(self, queue: str) -> str:
        return f"{self._index}:fresh:{queue.removeprefix(self._prefix)}"

    def _lot(self, queue: str) -> Lot:
        circuit, _, home = queue.removeprefix(self._prefix).partition("|")
        return Lot(queue, circuit, home)

    def _waiting(self, broker: Broker) -> list[tuple[Lot, str]]:
        return [(lot, suffix) for lot, lengths in self.lots(broker).items() for suffix in lengths]


def _pairs(batch: list[bytes], home: str) -> list[bytes]:
    return [text for raw in batch for text in (raw, _addressed(raw, home))]


def _addressed(raw: bytes, home: str) -> bytes:
    try:
        message = readdressed(json.loads(raw), home)
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw  # mangled: the consumer's business
    return json.dumps(message).encode()
