"""The broker's Redis as the middleware's own client sees it: kombu's connection settings, bounded waits, plain keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis

if TYPE_CHECKING:
    from celery import Celery

PRIORITY_SEPARATOR = "\x06\x16"
TIMEOUT_S = 2.0
REDIS_SCHEMES = ("redis://", "rediss://", "sentinel://")


def is_redis(url: str | None) -> bool:
    """Whether a broker URL is one of Redis (plain, TLS or Sentinel; several URLs may be separated by ;)."""
    return bool(url) and str(url).partition(";")[0].startswith(REDIS_SCHEMES)


class Broker:
    """A client of the broker's database. Kombu builds the connection, so TLS, users and Sentinel work as configured."""

    def __init__(self, app: Celery) -> None:
        options = {
            **app.conf.broker_transport_options,
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
        }
        self.connection = app.connection_for_write(transport_options=options)
        channel = self.connection.default_channel
        self._keyprefix = str(channel.global_keyprefix or "")
        self._channel = channel
        steps = sorted(int(step) for step in channel.priority_steps)
        self.priority_suffixes = [f"{channel.sep}{step}" if step else "" for step in steps]
        self.client: redis.Redis = redis.Redis(connection_pool=channel.pool)

    def key(self, name: str) -> str:
        """The Redis key of a queue or of a structure beside it, with kombu's global prefix."""
        return self._keyprefix + name

    def queue_of(self, exchange: str, routing_key: str) -> str:
        """The queue that a message with this route came from: kombu's own look-up in the binding tables."""
        if not exchange:
            return routing_key
        queues = self._channel._lookup(exchange, routing_key)  # noqa: SLF001  what kombu itself restores by
        return str(next(iter(queues), routing_key))

    def body(self, message: dict[str, Any]) -> bytes | str:
        """The body of a message as it lies in a queue's list, its transfer encoding undone."""
        return cast(
            "bytes | str", self._channel.decode_body(message["body"], message["properties"].get("body_encoding"))
        )

    def script(self, source: str) -> Any:
        return self.client.register_script(source)

    def close(self) -> None:
        """Close kombu's connection and with it the pool."""
        self.connection.release()
