"""The parking place: queues that no worker consumes, for tasks whose circuit is open at every level.

A parked message is an ordinary message on `<namespace>.parked.<circuit>|<home queue>`: it survives every restart and
is listed like a queue. When the circuit lets calls pass again, the workers' upkeep moves messages back to the front of
their home queue, oldest first, at a bounded rate. An index names the parking queues, so that nobody scans for them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from resilience import lua
from resilience.delivery.onward import readdressed

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker


REINDEX_S = 1.0
AT_ONCE = 100


class Parking:
    """Names of parking queues, and the way back from them. `broker` opens a client of the broker's database."""

    def __init__(self, namespace: str, release_rate: float, broker: Callable[[], Broker]) -> None:
        self._prefix = f"{namespace}.parked."
        self._index = f"{namespace}:v1:parked"
        self._rate = release_rate
        self._broker = broker
        self._indexed_at: dict[str, float] = {}
        self._allowance = 0.0

    def queue_for(self, home: str, circuit: str) -> str:
        """Where a task of `circuit` waits that belongs on `home`, indexed. Raises when the broker is away."""
        queue = f"{self._prefix}{circuit}|{home}"
        now = time.monotonic()
        if now - self._indexed_at.get(queue, -math.inf) >= REINDEX_S:
            broker = self._broker()
            try:
                broker.client.sadd(broker.key(self._index), queue)
            finally:
                broker.close()
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
        waiting = self._waiting(broker)
        if not waiting:
            self._allowance = 0.0
            return 0
        mine = self._rate / max(1, sharers())  # the rate is the fleet's
        self._allowance = min(self._allowance + mine * elapsed_s, max(mine, 1.0))
        script = broker.script(lua.source(__package__, "release.lua"))
        moved = 0
        for queue, suffix in waiting:
            circuit, _, home = queue.removeprefix(self._prefix).partition("|")
            budget = math.floor(self._allowance) - moved
            if budget < 1 or not home or refuses(circuit):
                continue
            budget = max(1, math.floor(budget * share(circuit)))
            source, target = broker.key(queue + suffix), broker.key(home + suffix)
            batch = cast("list[bytes]", broker.client.lrange(source, -budget, -1))
            moved += int(script(keys=[source, target], args=[-1, *_pairs(batch, home)]))
        self._allowance -= moved
        return moved

    def release_all(self, broker: Broker) -> int:
        """Move everything to the front of its home queue at once, whatever its circuit says; returns how many."""
        script = broker.script(lua.source(__package__, "release.lua"))
        moved = 0
        for queue, suffix in self._waiting(broker):
            home = queue.removeprefix(self._prefix).partition("|")[2]
            source, target = broker.key(queue + suffix), broker.key(home + suffix)
            step = 1
            while step:  # the newest first, so that the oldest lies in front of all
                batch = cast("list[bytes]", broker.client.lrange(source, 0, AT_ONCE - 1))
                step = int(script(keys=[source, target], args=[1, *_pairs(batch, home)])) if batch else 0
                moved += step
        return moved

    def _waiting(self, broker: Broker) -> list[tuple[str, str]]:
        """(queue, priority suffix) of every list that holds something, higher priorities first."""
        members = cast("set[bytes]", broker.client.smembers(broker.key(self._index)))
        lists = [(name.decode(), suffix) for name in sorted(members) for suffix in broker.priority_suffixes]
        pipe = broker.client.pipeline(transaction=False)
        for queue, suffix in lists:
            pipe.llen(broker.key(queue + suffix))
        lengths = pipe.execute() if lists else []
        return [place for place, length in zip(lists, lengths, strict=True) if length]


def _pairs(batch: list[bytes], home: str) -> list[bytes]:
    return [text for raw in batch for text in (raw, _addressed(raw, home))]


def _addressed(raw: bytes, home: str) -> bytes:
    try:
        message = readdressed(json.loads(raw), home)
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw  # mangled: the consumer's business
    return json.dumps(message).encode()
