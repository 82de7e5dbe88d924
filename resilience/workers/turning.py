"""The consumer's loop as others see it: what it is to do at every turn, and when it turned last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

STAMP_EVERY_S = 0.5

_LOOKS = "_celeriac_looks"


class LoopStamp:
    """When a worker's consumer loop turned last; the pulse thread asks, the loop stamps."""

    def __init__(self) -> None:
        self._turned_at = time.monotonic()

    def touch(self) -> None:
        self._turned_at = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._turned_at

    def follow(self, consumer: Any) -> None:
        """Have this consumer's loop stamp its turns, from now on."""
        self.touch()
        at_every_turn(consumer, STAMP_EVERY_S, self.touch)


def at_every_turn(consumer: Any, every_s: float, look: Callable[[], None]) -> None:
    """Have the consumer's loop call `look` until its connection ends: every so often, by a timer of the event loop.

    A consumer without one calls it whenever it comes round, over all its connections; to ask again changes nothing.
    """
    if consumer.hub is not None:
        consumer.hub.call_repeatedly(every_s, look)
        return
    if _LOOKS not in vars(consumer):
        looks: list[Callable[[], None]] = []
        stock = consumer.perform_pending_operations

        def perform_pending_operations() -> None:
            for each in looks:
                each()
            stock()

        setattr(consumer, _LOOKS, looks)
        consumer.perform_pending_operations = perform_pending_operations
    if look not in vars(consumer)[_LOOKS]:
        vars(consumer)[_LOOKS].append(look)
