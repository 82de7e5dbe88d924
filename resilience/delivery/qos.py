"""What a worker has delivered and not settled, as kombu asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import virtual

from resilience.delivery.deaths import requeued


class OwnedQoS(virtual.QoS):
    """Acknowledgements are noted here and told to the broker by the next turn."""

    channel: Any

    def __init__(self, channel: Any, former: Any) -> None:
        super().__init__(channel, former.prefetch_count)
        # Celery's worker_disable_prefetch puts a question of its own there before the channel consumes.
        self.asks: Callable[[], bool] | None = vars(former).get("can_consume")

    def can_consume(self) -> bool:
        return bool(super().can_consume() and (self.asks is None or self.asks()))

    def ack(self, delivery_tag: str) -> None:
        self.channel.held.ack(delivery_tag)
        self.forget(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.held.give_back(delivery_tag, requeued)
        else:
            self.channel.held.ack(delivery_tag)
        self.forget(delivery_tag)

    def forget(self, delivery_tag: str) -> None:
        """It is settled: it takes no place in the window any more."""
        # Kombu notes what is settled and removes it later, as other channels walk through what is delivered.
        self._delivered.pop(delivery_tag, None)
        self.channel.wake_if_elsewhere()

    def restore_unacked(self) -> None:
        """At the end of a channel, which then hands back what does not run."""
        self._delivered.clear()
        self._dirty.clear()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """A claim is valid as long as its owner lives: no timeout makes it visible again."""
