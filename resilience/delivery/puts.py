"""How a channel puts a message into a queue's list: kombu's own command, without the layers of a client around it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.utils.json import JSONEncoder

from resilience.delivery.bounded import REFUSED, mark_sent
from resilience.delivery.original import is_original

FRESH_S = 0.1
"""A connection used so recently is taken to be up; one that rested longer may have been closed by the server."""

_ENCODER = JSONEncoder()
_BROKEN = (OSError, redis.RedisError)
_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types


class Puts(_Base):
    """Mixed into kombu's plain and Sentinel channels."""

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        """Put a message into a queue's list: kombu's own command, sent without the layers of a client."""
        if "_publish_batch" in options or not self.puts_plainly(queue):
            self._put_as_kombu(queue, message, options)
            return
        self.put_text(queue, self._get_message_priority(message, reverse=False), _ENCODER.encode(message))

    def puts_plainly(self, queue: str) -> bool:
        """Whether a message for `queue` is one command, which nothing repeats by itself and no tool wants to see."""
        if queue in self._expires or self.retry_on_timeout:
            return False
        return is_original(redis.Redis.execute_command, redis.client)

    def key_of(self, queue: str, priority: int) -> str:
        """The list of a queue's messages of a priority."""
        return self._prefixed(self._q_for_pri(queue, priority))

    def put_text(self, queue: str, priority: int, text: str) -> None:
        """Put the text of a whole message into a queue's list. An error is marked if the text may be there."""
        key = self.key_of(queue, priority)
        spare = self.spare
        connection = spare.take()
        try:
            connection.send_command("LPUSH", key, text)
            connection.read_response()
        except REFUSED:
            spare.pool.release(connection)
            raise
        except BaseException as error:
            spare.pool.release(connection)
            mark_sent(error)
            raise
        spare.keep(connection)

    @property
    def spare(self) -> Spare:
        """Connections to put messages with."""
        spare: Spare | None = self.__dict__.get("_spare")
        if spare is None or spare.pool is not self.pool:
            spare = self._spare = Spare(self.pool)
        return spare

    def _put_as_kombu(self, queue: str, message: dict[str, Any], options: dict[str, Any]) -> None:
        try:
            super()._put(queue, message, **options)
        except _BROKEN as error:
            mark_sent(error)  # or it could not even connect, which cannot be told here
            raise

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Kombu makes a client object for every command; one per connection pool does."""
        if client is None:
            client = self.__dict__.get("_one_client")
            if client is None or client.connection_pool is not self.pool:
                client = self._one_client = self._create_client()
        try:
            yield client
        except redis.TimeoutError:
            # Where one connection is half open, the others of its pool are too: each would be waited for in turn.
            client.connection_pool.disconnect(inuse_connections=False)
            raise

    def _prefixed(self, key: str) -> str:
        return f"{self.global_keyprefix}{key}"


class Spare:
    """A pool's connections that were used a moment ago, at hand without the pool's checks. For any number of threads.

    Where a connection may have to prove itself anew (a token that ran out, a master that was demoted) the pool's own
    checks are made each time, and so they are after a fork.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._free: deque[tuple[Any, float]] = deque()
        self._keeps = type(pool) is redis.ConnectionPool and not pool.connection_kwargs.get("credential_provider")

    def take(self, rest_s: float = FRESH_S) -> Any:
        """A connection that is ready for a command; looked at whether it is up if it rested longer than `rest_s`."""
        try:
            connection, used_at = self._free.pop()
        except IndexError:
            return self.pool.get_connection()
        if connection.pid != os.getpid():
            self._free.clear()
            return self.pool.get_connection()
        if time.monotonic() - used_at >= rest_s:
            self.pool.release(connection)
            return self.pool.get_connection()
        return connection

    def keep(self, connection: Any) -> None:
        """It was used, and its reply was read."""
        if self._keeps:
            self._free.append((connection, time.monotonic()))
        else:
            self.pool.release(connection)
