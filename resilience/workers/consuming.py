"""What being out of rotation means to a Celery consumer: its queues are cancelled, what it had not begun goes back.

Celery's own list of queues stays as it is, so that remote control, a reconnect and the router know what is consumed
when the worker is back. With a transport that is not ours, what was prefetched runs here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.concurrency.prefork import TaskPool as PreforkPool

from resilience.delivery.envelope import redelivered
from resilience.delivery.starts import held_of

if TYPE_CHECKING:
    from resilience.delivery.held import Held


class Consuming:
    """One connection of a worker's consumer. All but `call_soon` and `give_back_behind` belong to its loop."""

    def __init__(self, consumer: Any, own_queue: str, held: Held | None) -> None:
        self._consumer = consumer
        self._own_queue = own_queue
        self._held = held
        self._out = False
        self.connection_errors: tuple[type[BaseException], ...] = consumer.connection_errors

    def call_soon(self, look: Callable[[], None]) -> None:
        """Have the loop call `look` when it comes round; from any thread."""
        self._consumer.call_soon(look)
        channel: Any = getattr(self._consumer.task_consumer, "channel", None)
        if getattr(channel, "owned", False):
            channel.wake()

    def give_back_behind(self) -> None:
        """The loop of a solo worker may stand still for an hour: what waits behind its task goes back now."""
        if self._held is not None and self._held.blocks:
            self._held.give_back_behind(redelivered)

    def follow(self, out: bool) -> None:
        """Be in or out of rotation. Doing it again repairs what somebody else changed meanwhile."""
        task_consumer = self._consumer.task_consumer
        if task_consumer is None:
            return  # between two connections: the next one asks again
        if self._held is not None:
            self._held.out = out
        if out:
            self._cancel(task_consumer)
            if not self._out:
                self._give_back()
        elif self._out:
            self._consume(task_consumer)
        self._out = out

    def _cancel(self, task_consumer: Any) -> None:
        for queue in [queue.name for queue in task_consumer.queues if queue.name != self._own_queue]:
            task_consumer.cancel_by_queue(queue)

    def _consume(self, task_consumer: Any) -> None:
        known = {queue.name for queue in task_consumer.queues}
        for queue in list(self._consumer.app.amqp.queues.consume_from.values()):
            if queue.name not in known:
                task_consumer.add_queue(queue)
        task_consumer.consume()

    def _give_back(self) -> None:
        """What the pool has not begun goes back; the pool and its queue of waiting requests forget it."""
        held = self._held
        if held is None:
            return
        tags = set(held.give_back_idle(redelivered))
        if not tags:
            return
        qos = self._consumer.task_consumer.channel.qos
        for tag in tags:
            qos.forget(tag)
        self._forget_waiting(tags)
        if isinstance(self._consumer.pool, PreforkPool):
            self._forget_unwritten(tags)

    def _forget_waiting(self, tags: set[str]) -> None:
        """Requests that wait for a free slot, or for their rate limit, whose tokens they would use up.

        Left before the slots they would be refused one inside the other, a deep stack.
        """
        semaphore = getattr(self._consumer.controller, "semaphore", None)
        waiting = getattr(semaphore, "_waiting", None)
        if waiting:
            self._keep(
                waiting, [waiter for waiter in waiting if not any(self._is_of(each, tags) for each in waiter[1])]
            )
        for bucket in self._consumer.task_buckets.values():
            if bucket is not None and bucket.contents:
                self._keep(bucket.contents, [item for item in bucket.contents if not self._is_of(item[0], tags)])

    def _keep(self, line: deque[Any], those: list[Any]) -> None:
        line.clear()
        line.extend(those)

    def _is_of(self, request: Any, tags: set[str]) -> bool:
        message = getattr(request, "message", None)
        return held_of(message) is self._held and str(message.delivery_tag) in tags  # type: ignore[union-attr]

    def _forget_unwritten(self, tags: set[str]) -> None:
        """Tasks that the pool was given and no child: none is there to take them, or they would have gone."""
        engine = self._consumer.pool._pool  # noqa: SLF001  the prefork pool has no public face for this
        for job in list(engine._cache.values()):  # noqa: SLF001  the same
            accepted = getattr(job, "_accept_callback", None)
            if job._accepted or job._write_to is not None or not self._is_of(getattr(accepted, "__self__", None), tags):  # noqa: SLF001  the same
                continue
            job._accepted = True  # noqa: SLF001  so that no child gets it later
            job.discard()
            self._consumer.controller.semaphore.release()
