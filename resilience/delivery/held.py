"""What a worker holds of its broker's messages. It outlives connections: an acknowledgement is never lost with one."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from resilience.delivery.delayed import delayed_key

MOST_AT_ONCE = 1_000

T = TypeVar("T")


@dataclass
class Settled:
    """What one turn tells the broker: tags that ended, and (tag, new text, where to) of messages that go back."""

    acked: list[str] = field(default_factory=list)
    returned: list[tuple[str, bytes, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.acked or self.returned)


class Held:
    """One per worker, in its main process. Settled from any thread; told to the broker by the loop or by the pulse.

    A settlement that was sent and not answered is sent again: to repeat it does nothing.
    `running` names the tags whose tasks this worker is running; `blocks` says that the loop stands still meanwhile.
    """

    def __init__(self, namespace: str, owner: str, running: Callable[[], set[str]] = set) -> None:
        self.namespace = namespace
        self.owner = owner
        self.running = running
        self.blocks = False
        self.late = 0
        self._pid = os.getpid()
        self._messages: dict[str, bytes] = {}
        self._begun: set[str] = set()
        self._acked: deque[str] = deque()
        self._returned: deque[tuple[str, bytes, str]] = deque()
        self._under_way = Settled()
        self._lock = threading.Lock()
        self._channels: set[object] = set()

    @property
    def is_mine(self) -> bool:
        """False in a forked child: what the worker holds is the main process's."""
        return os.getpid() == self._pid

    @property
    def claims_key(self) -> str:
        return f"{self.namespace}:v1:claims:{self.owner}"

    @property
    def delayed_key(self) -> str:
        """The index of what is due later (see due.lua)."""
        return delayed_key(self.namespace)

    def wait_key(self, source: str) -> str:
        """Where messages of the list `source` move while this worker waits idly."""
        return f"{self.namespace}:v1:wait:{self.owner}:{source}"

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, tag: object) -> bool:
        return tag in self._messages

    def tags(self) -> list[str]:
        """What is held, oldest first."""
        return list(self._messages)

    def take(self, tag: str, raw: bytes) -> None:
        self._messages[tag] = raw

    def begin(self, tag: str) -> bool:
        """It is handed to the worker now; False if it went back in the meantime."""
        with self._lock:
            if tag not in self._messages:
                return False
            self._begun.add(tag)
            return True

    def ack(self, tag: str) -> None:
        """It ended."""
        if self._messages.pop(tag, None) is not None:
            self._begun.discard(tag)
            self._acked.append(tag)

    def give_back(self, tag: str, rewrite: Callable[[bytes], bytes]) -> None:
        """Back to the front of its queue, as `rewrite` makes it."""
        raw = self._messages.pop(tag, None)
        if raw is not None:
            self._begun.discard(tag)
            self._returned.append((tag, rewrite(raw), ""))

    def hand_over(self, tag: str, label: str) -> bool:
        """It is due later, as `label` says (see `eta.py`); False if it is not held any more."""
        with self._lock:
            if self._messages.pop(tag, None) is None:
                return False
            self._begun.discard(tag)
            self._returned.append((tag, b"", label))
        return True

    def give_back_idle(self, rewrite: Callable[[bytes], bytes]) -> None:
        """Everything that is not running goes back, newest first, so that it lies in its old order."""
        running = self.running()
        with self._lock:
            for tag in reversed(list(self._messages)):
                if tag not in running:
                    self.give_back(tag, rewrite)

    def give_back_behind(self, rewrite: Callable[[bytes], bytes]) -> None:
        """What waits behind the task in which the loop of a solo worker stands still goes back; newest first."""
        with self._lock:
            for tag in reversed(list(self._messages)):
                if tag not in self._begun:
                    self.give_back(tag, rewrite)

    def give_back_unknown(self, tag: str) -> None:
        """A claim whose delivery was lost with a connection goes back as it is."""
        self._returned.append((tag, b"", ""))

    def settle(self) -> Settled:
        """What is to be told now; it stays under way until `told`."""
        with self._lock:
            if not self._under_way:
                self._under_way = Settled(_drain(self._acked), _drain(self._returned))
            return self._under_way

    def told(self, settled: Settled) -> None:
        """The broker answered to this settlement."""
        with self._lock:
            if self._under_way is settled:
                self._under_way = Settled()

    @property
    def waits_to_be_told(self) -> bool:
        return bool(self._acked or self._returned or self._under_way)

    def joined_by(self, channel: object) -> bool:
        """A channel begins; True if it is the only one, so that nothing can be under way on another."""
        self._channels.add(channel)
        return len(self._channels) == 1

    def left_by(self, channel: object) -> bool:
        """A channel ended; True if it was the last."""
        self._channels.discard(channel)
        return not self._channels


def _drain(queue: deque[T]) -> list[T]:
    items: list[T] = []
    while queue and len(items) < MOST_AT_ONCE:
        items.append(queue.popleft())
    return items


_held: dict[str, Held] = {}


def hold_as(held: Held) -> str:
    """Make `held` known to the channels of this process; returns the transport option that names it."""
    _held[held.owner] = held
    return held.owner


def held_by(owner: str) -> Held | None:
    """What this very process holds as `owner`; None in any other."""
    held = _held.get(owner)
    return held if held is not None and held.is_mine else None
