"""The broker's Redis as the middleware's own client sees it: kombu's connection settings, bounded waits, plain keys."""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celeriac")

TIMEOUT_S = 2.0
WORKER_LIMITS = {"socket_timeout": 6.0, "socket_connect_timeout": 4.0, "socket_keepalive": True}
"""Transport options of a worker, below the user's own: without limits one dead connection stops its loop for good."""

BROKER_ERRORS = (redis.RedisError, OSError, OperationalError)
REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://", "sentinel://")


def first_url(url: Any) -> str:
    """The first of Celery's broker URLs: a list, or one string with ; between them."""
    first = url[0] if isinstance(url, (list, tuple)) and url else url
    return str(first or "").partition(";")[0]


def is_redis(url: Any) -> bool:
    """Whether Celery's broker URL is one of Redis: plain, TLS, Sentinel or a Unix socket."""
    return first_url(url).startswith(REDIS_SCHEMES)


def client_url(url: Any, use_ssl: Any = None) -> str:
    """The URL as redis-py reads it, "" if it is none: Celery spells sockets and certificate checks its own way.

    `use_ssl`: Celery's setting beside the URL (`broker_use_ssl`), whose options count as kombu counts them: TLS is on,
    whatever the URL says.
    """
    first = first_url(url)
    if first.startswith("redis+socket://"):
        first = "unix" + first.removeprefix("redis+socket").replace("virtual_host=", "db=")
    first = re.sub(r"(ssl_cert_reqs=)CERT_(NONE|OPTIONAL|REQUIRED)", lambda m: m[1] + m[2].lower(), first)
    if isinstance(use_ssl, Mapping) and first.startswith(("redis://", "rediss://")):
        first = _with_tls(first, use_ssl)
    return first if first.startswith(("redis://", "rediss://", "unix://")) else ""


def _with_tls(url: str, options: Mapping[str, Any]) -> str:
    _, netloc, path, query, fragment = urlsplit(url)
    named = {name: _spelled(value) for name, value in options.items() if value is not None}
    return urlunsplit(("rediss", netloc, path, urlencode({**dict(parse_qsl(query)), **named}), fragment))


def _spelled(value: Any) -> str:
    if isinstance(value, ssl.VerifyMode):
        return value.name.removeprefix("CERT_").lower()
    return str(value)


class Broker:
    """A client of the broker's database. Kombu builds the connection, so TLS, users and Sentinel work as configured."""

    def __init__(self, app: Celery) -> None:
        options = {
            **app.conf.broker_transport_options,
            "socket_timeout": TIMEOUT_S,
            "socket_connect_timeout": TIMEOUT_S,
        }
        options.pop("celeriac_owner", None)  # it consumes nothing
        self.connection = app.connection_for_write(transport_options=options)
        # Each URL once: kombu would sleep for seconds between attempts, and a pulse be late when the broker is back.
        self.connection.transport_options["max_retries"] = max(0, len(self.connection.alt or ()) - 1)
        channel = self.connection.default_channel
        self._keyprefix = str(channel.global_keyprefix or "")
        self._channel = channel
        self._steps = sorted(int(step) for step in channel.priority_steps)
        self.priority_suffixes = [self._suffix(step) for step in self._steps]
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

    def list_of(self, queue: str, priority: int) -> str:
        """The list that holds a queue's messages of a priority: the transport's own steps and separator."""
        return queue + self._suffix(max((step for step in self._steps if step <= priority), default=self._steps[0]))

    def queue_in(self, key: str) -> str:
        """The queue whose list has this whole Redis key: without kombu's global prefix and its priority."""
        return key.removeprefix(self._keyprefix).rsplit(str(self._channel.sep), 1)[0]

    def _suffix(self, step: int) -> str:
        return f"{self._channel.sep}{step}" if step else ""

    def body(self, message: dict[str, Any]) -> bytes | str:
        """The body of a message as it lies in a queue's list, its transfer encoding undone."""
        return cast(
            "bytes | str", self._channel.decode_body(message["body"], message["properties"].get("body_encoding"))
        )

    def message(self, raw: bytes) -> Any:
        """A message as it lies in a queue's list, as consumers get it. Raises ValueError, KeyError or TypeError."""
        return self._channel.Message(json.loads(raw), channel=self._channel)

    def has_moved(self) -> bool:
        """Whether Sentinel names another primary than this client's; False without Sentinel, or if none answers."""
        pool: Any = self.client.connection_pool
        if not hasattr(pool, "get_master_address") or pool.master_address is None:
            return False
        mine = pool.master_address
        try:
            return bool(pool.get_master_address() != mine)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            logger.debug("celeriac: no sentinel says who is primary: %s", error)
            return False

    def script(self, source: str) -> Any:
        return self.client.register_script(source)

    def close(self) -> None:
        """Close kombu's connection and with it the pool."""
        self.connection.release()
