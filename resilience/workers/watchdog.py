"""A worker with free slots that receives nothing from queues that hold something is stuck: say so, and reconnect it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from signals.bus import Bus
from signals.events import WorkerStalled

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker
    from resilience.delivery.held import Held
    from resilience.workers.registry import Registry


@dataclass(frozen=True)
class Look:
    """What is seen of a worker at `now` (monotonic seconds): messages `received` since it began; whether it could run
    one more task now, `free`, and is not held back on purpose."""

    now: float
    received: int
    free: bool


class Patience:
    """Judges looks: when has a worker that could work received nothing for too long?"""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._received = -1
        self._since = 0.0

    def run_out(self, look: Look) -> bool:
        """Whether it was free and received nothing at every look of the last `stall_s` seconds."""
        if not look.free or look.received != self._received:
            self._received, self._since = look.received, look.now
            return False
        return look.now - self._since >= self._stall_s

    def begin_anew(self, now: float) -> None:
        """Something was done about it: give it as much time again."""
        self._since = now


class Watchdog:
    """Asked every beat of the pulse. `is_free`: could the pool run one more task, with nothing that holds it back?"""

    def __init__(self, held: Held, stall_s: float, bus: Bus, is_free: Callable[[], bool]) -> None:
        self._held, self._bus, self._is_free = held, bus, is_free
        self._stall_s = stall_s
        self._patience = Patience(stall_s)
        self._stalled = False

    def look(self, broker: Broker, registry: Registry) -> None:
        """Raises the broker's errors."""
        held, now = self._held, time.monotonic()
        seen = Look(now, held.received, self._is_free() and not held.keeps_to_itself)
        if not self._patience.run_out(seen):
            if self._stalled and held.received:
                self._say(registry, stalled=False)
            return
        self._patience.begin_anew(now)
        waiting = self._waiting(broker)
        self._say(registry, stalled=bool(waiting))
        if waiting:
            self._bus.publish(WorkerStalled(held.owner, waiting, self._stall_s))
            held.reconnect_because(f"it received nothing for {self._stall_s:g} s, and {waiting} messages wait for it")

    def _waiting(self, broker: Broker) -> int:
        pipe = broker.client.pipeline(transaction=False)
        for source in self._held.sources:
            pipe.llen(source)
        return sum(cast("list[int]", pipe.execute())) if self._held.sources else 0

    def _say(self, registry: Registry, stalled: bool) -> None:
        if stalled != self._stalled:
            registry.describe_self(self._held.owner, {"stalled": stalled})
            self._stalled = stalled
