"""What a channel says of a queue and does to it, with the messages that are due later: size, purge, delete.

Every channel of an app counts them, a publisher's and the command line's too: to whoever asks they are on the queue.
"""

from __future__ import annotations

import logging
from typing import Any

import redis

from resilience.delivery.delayed import delayed_key, due_key, front_key, messages_key

_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types

logger = logging.getLogger("celeriac")


class KnowsDelayed(_Base):
    """Mixed into kombu's channels. The connection says in which namespace the delayed messages lie."""

    def _size(self, queue: str) -> int:
        return int(super()._size(queue)) + self._delayed(queue)

    def _has_queue(self, queue: str, **options: Any) -> bool:
        return bool(super()._has_queue(queue, **options)) or bool(self._delayed(queue))

    def _purge(self, queue: str) -> int:
        dropped = self._drop_delayed(queue)  # first, so that nothing is released behind the purge's back
        return dropped + int(super()._purge(queue))

    def _delete(self, queue: str, *args: Any, **options: Any) -> None:
        super()._delete(queue, *args, **options)
        self._drop_delayed(queue)

    def _delayed(self, queue: str) -> int:
        """How many messages of a queue are due later; 0 for a user who may not look."""
        places = self._places(queue)
        if not places:
            return 0
        index, sources = places
        pipe = self._plain_client().pipeline(transaction=False)
        for source in sources:
            pipe.zcard(due_key(index, source))
        try:
            return sum(pipe.execute())
        except redis.exceptions.NoPermissionError as error:
            logger.debug("celeriac: the delayed messages of %s are not counted: %s", queue, error)
            return 0

    def _drop_delayed(self, queue: str) -> int:
        """Remove a queue's delayed messages; returns how many."""
        if not self._delayed(queue):
            return 0
        index, sources = self._places(queue)
        pipe = self._plain_client().pipeline(transaction=True)
        for source in sources:
            pipe.zcard(due_key(index, source))
            pipe.unlink(due_key(index, source), messages_key(index, source), front_key(index, source))
            pipe.zrem(index, source)
        return sum(pipe.execute()[::3])

    def _places(self, queue: str) -> Any:
        """The index and the lists of a queue, in full; None where nothing can be delayed."""
        namespace = getattr(self.connection.client, "celeriac_namespace", None)
        if namespace is None:
            return None
        prefix = self.global_keyprefix
        sources = [f"{prefix}{self._q_for_pri(queue, step)}" for step in self.priority_steps]
        return f"{prefix}{delayed_key(namespace)}", sources

    def _plain_client(self) -> redis.Redis:
        """A client that adds no prefix: kombu's own knows only the commands that kombu uses."""
        return redis.Redis(connection_pool=self.pool)
