"""The parking place: queues that no worker consumes, for tasks whose circuit is open at every level.

A parked message is an ordinary message on `<namespace>.parked.<circuit>.<home queue>`: it survives every restart and
is listed like a queue. When the circuit lets calls pass again, the workers' upkeep moves messages back to the front of
their home queue, oldest first, at a bounded rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from resilience.delivery.broker import PRIORITY_SEPARATOR

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker


class Parking:
    """Names of parking queues, and the way back from them."""

    def __init__(self, namespace: str, release_rate: float) -> None:
        self._prefix = f"{namespace}.parked."
        self._rate = release_rate
        self._allowance = 0.0

    def queue_for(self, home: str, circuit: str) -> str:
        """Where a task of `circuit` waits that belongs on queue `home`."""
        return f"{self._prefix}{circuit}|{home}"

    def release(
        self,
        broker: Broker,
        may_pass: Callable[[str], bool],
        elapsed_s: float,
        is_closed: Callable[[str], bool] = lambda _circuit: True,
    ) -> int:
        """Move what may run again; called every beat, `elapsed_s` after the last call. Returns how many moved.

        A circuit that may be probed but is not closed gets one message: more would only come back and be parked again.
        """
        keys = broker.queue_keys(self._prefix)
        if not keys:
            self._allowance = 0.0
            return 0
        self._allowance = min(self._allowance + self._rate * elapsed_s, max(1.0, self._rate))
        moved = 0
        script = broker.script((files(__package__) / "release.lua").read_text("utf-8"))
        for key in keys:
            circuit, _, home = key.removeprefix(self._prefix).partition("|")
            queue, separator, _ = home.partition(PRIORITY_SEPARATOR)
            budget = math.floor(self._allowance) - moved
            if budget < 1 or not queue or not may_pass(circuit):
                continue
            if not is_closed(circuit):
                budget = 1
            target = home if separator else queue
            moved += int(cast("int", script(keys=[broker.key(key), broker.key(target)], args=[budget])))
        self._allowance -= moved
        return moved
