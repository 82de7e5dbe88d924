"""What a worker has to tell its broker: what ended and what goes back. Noted from any thread, told by one at a time."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

MOST_AT_ONCE = 1_000

T = TypeVar("T")


@dataclass
class Settled:
    """What one turn tells the broker: tags that ended, and (tag, new text, where to) of messages that go back."""

    acked: list[str] = field(default_factory=list)
    returned: list[tuple[str, bytes, str]] = field(default_factory=list)
    told_before: bool = False
    """The broker may know of it already: what is late then says nothing."""

    def __bool__(self) -> bool:
        return bool(self.acked or self.returned)


class Settling:
    """A settlement that was sent and not answered is sent again: to repeat it does nothing."""

    def __init__(self) -> None:
        self.late = 0
        self._acked: deque[str] = deque()
        self._returned: deque[tuple[str, bytes, str]] = deque()
        self._under_way = Settled()
        self._lock = threading.RLock()  # a signal may end the worker while its loop has it

    def settle(self) -> Settled:
        """What is to be told now; it stays under way until `told`."""
        with self._lock:
            if self._under_way:
                self._under_way.told_before = True
            else:
                self._under_way = Settled(drained(self._acked), drained(self._returned))
            return self._under_way

    def told(self, settled: Settled, late: int) -> None:
        """The broker answered to this settlement: so many of it came too late."""
        with self._lock:
            if not settled.told_before:
                self.late += late
            if self._under_way is settled:
                self._under_way = Settled()

    def settling(self) -> set[str]:
        """Tags that ended or go back, of which the broker may not know yet."""
        with self._lock:
            return self._settling()

    def _settling(self) -> set[str]:
        under_way = self._under_way
        returned = [*under_way.returned, *self._returned]
        return {*under_way.acked, *self._acked, *(tag for tag, *_ in returned)}

    @property
    def unsettled(self) -> bool:
        return bool(self._acked or self._returned or self._under_way)


def drained(queue: deque[T]) -> list[T]:
    items: list[T] = []
    with suppress(IndexError):  # another thread took the last one meanwhile
        while queue and len(items) < MOST_AT_ONCE:
            items.append(queue.popleft())
    return items
