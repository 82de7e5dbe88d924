"""Messages that are due later: they wait in Redis, beside the queue that they came from, and in nobody's memory.

A worker that receives one hands it over in its next turn (`turn.lua`). Whoever looks first when it is due moves it
to the front of its queue, from where it goes the way of every message. To move one too early is harmless: the worker
that gets it hands it over again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from resilience import lua

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

AT_ONCE = 250
"""Messages of one queue that are moved by one call, which keeps the server busy for a millisecond or two."""

IDS_AT_ONCE = 100
MOST_LISTED = 1_000


def delayed_key(namespace: str) -> str:
    """The index of all lists that have delayed messages; the keys beside it begin with it (see due.lua)."""
    return f"{namespace}:v1:delayed"


def due_key(index: str, source: str) -> str:
    """The sorted set of what is due later on the list `source`; all keys with their prefixes."""
    return f"{index}:due:{source}"


def messages_key(index: str, source: str) -> str:
    return f"{index}:messages:{source}"


def front_key(index: str, source: str) -> str:
    return f"{index}:front:{source}"


@dataclass(frozen=True)
class Look:
    """What one look found: `moved` messages; the server's Unix time; when to come back, None for "at the next beat"."""

    moved: int
    now_s: float
    back_s: float | None


@dataclass(frozen=True)
class DelayedMessage:
    """One that waits: the list that it came from, Unix time, and the message as it lies in a queue."""

    source: str
    due_s: float
    raw: bytes


class Delayed:
    """All delayed messages of one namespace. `owner` is the worker that asks, "" for a person's command."""

    def __init__(self, broker: Broker, namespace: str, owner: str = "", lease_s: float = 2.0) -> None:
        self._broker = broker
        self._index = broker.key(delayed_key(namespace))
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._due = broker.script(lua.source(__package__, "due.lua"))
        self._forward = broker.script(lua.source(__package__, "forward.lua"))

    def release(self) -> Look:
        """Move what is due to the front of its queues, earliest first."""
        return self._move(everything=False)

    def release_all(self) -> int:
        """Put every message to the back of its queue, due or not, earliest first, and return how many.

        For a change to stock workers, which keep what is due later in their memory. A worker of ours that still runs
        would hand the messages over again: stop those first.
        """
        moved = 0
        while step := self._move(everything=True).moved:  # not until nothing is left: a key that is no list takes none
            moved += step
        return moved

    def bring_forward(self, task_ids: Sequence[str]) -> int:
        """Move the messages of these tasks to the front of their queues at once; returns how many there were."""
        moved = 0
        for first in range(0, len(task_ids), IDS_AT_ONCE):
            moved += int(self._forward(keys=[self._index], args=list(task_ids[first : first + IDS_AT_ONCE])))
        return moved

    def count(self) -> int:
        """How many messages are due later."""
        return sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """The same by list; the keys have the broker's prefix."""
        sources = self._sources()
        pipe = self._broker.client.pipeline(transaction=False)
        for source in sources:
            pipe.zcard(due_key(self._index, source))
        return dict(zip(sources, pipe.execute() if sources else [], strict=True))

    def first(self, most: int = MOST_LISTED) -> list[DelayedMessage]:
        """Those that are due first, at most `most`."""
        sources = self._sources()
        pipe = self._broker.client.pipeline(transaction=False)
        for source in sources:
            pipe.zrange(due_key(self._index, source), 0, most - 1, withscores=True)
        rows = cast("list[list[tuple[bytes, float]]]", pipe.execute() if sources else [])
        found = [(due, source, member) for source, row in zip(sources, rows, strict=True) for member, due in row]
        found.sort()
        for _, source, member in found[:most]:
            pipe.hget(messages_key(self._index, source), member.decode())
        texts = cast("list[bytes | None]", pipe.execute() if found else [])
        return [
            DelayedMessage(source, due / 1000, raw)
            for (due, source, _), raw in zip(found[:most], texts, strict=True)
            if raw is not None  # it was released between the two questions
        ]

    def of(self, task_ids: Iterable[str]) -> list[DelayedMessage]:
        """Those of some tasks; of several messages of one task the first."""
        places = [(source, task_id) for source in self._sources() for task_id in task_ids]
        pipe = self._broker.client.pipeline(transaction=False)
        for source, task_id in places:
            pipe.hget(messages_key(self._index, source), task_id)
            pipe.zscore(due_key(self._index, source), task_id)
        replies = pipe.execute() if places else []
        return [
            DelayedMessage(source, float(due) / 1000, raw)
            for (source, _), raw, due in zip(places, replies[::2], replies[1::2], strict=True)
            if raw is not None and due is not None
        ]

    def _move(self, everything: bool) -> Look:
        args = [self._owner, AT_ONCE, int(everything), self._lease_ms]
        moved, now, back = cast("tuple[int, bytes, bytes]", self._due(keys=[self._index], args=args))
        return Look(moved, int(now) / 1000, int(back) / 1000 if back else None)

    def _sources(self) -> list[str]:
        return [name.decode() for name in cast("list[bytes]", self._broker.client.zrange(self._index, 0, -1))]
