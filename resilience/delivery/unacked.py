"""What one owner holds unacknowledged, under stock transport: two keys per worker process instead of one for all.

Kombu keeps delivered messages in a hash (tag -> [message, exchange, routing key]) and a sorted set (tag -> time). With
keys named after their owner, a dead owner's messages are known, and come back by its lapsed pulse, not by a timeout.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from resilience import lua
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

logger = logging.getLogger("celeriac")

NEVER_S = 10 * 365 * 86400
"""Kombu's visibility timeout with owners: a message is its owner's as long as the owner lives."""


VISIBILITY_S = 3600.0
"""Kombu's own, for stock workers."""

LOOK_S = 10.0
AT_ONCE = 100


def transport_options(namespace: str, owner: str) -> dict[str, Any]:
    """The options that give a worker unacked keys of its own."""
    return {
        "unacked_key": unacked_key(namespace, owner),
        "unacked_index_key": index_key(namespace, owner),
        "unacked_mutex_key": f"{namespace}:v1:unacked_mutex:{owner}",
        "visibility_timeout": NEVER_S,
    }


def unacked_key(namespace: str, owner: str) -> str:
    return f"{namespace}:v1:unacked:{owner}"


def index_key(namespace: str, owner: str) -> str:
    return f"{namespace}:v1:unacked_index:{owner}"


class Unacked:
    """Gives back what an owner held. Each message moves in one step, once, whoever else tries."""

    def __init__(self, broker: Broker, namespace: str) -> None:
        self._broker = broker
        self._namespace = namespace
        self._restore = broker.script(lua.source(__package__, "restore.lua"))

    def tags(self, owner: str, before: float | None = None) -> list[str]:
        """Tags that `owner` holds, newest first; with `before`, only those delivered earlier than that Unix time."""
        index = self._broker.key(index_key(self._namespace, owner))
        newest = "+inf" if before is None else f"({before}"
        rows = cast("list[bytes]", self._broker.client.zrevrangebyscore(index, newest, "-inf"))
        return [row.decode() for row in rows]

    def give_back(self, owner: str, tags: list[str] | None = None) -> int:
        """Put messages of `owner` back to the front of their queues in their old order; returns how many."""
        hash_key = self._broker.key(unacked_key(self._namespace, owner))
        zset_key = self._broker.key(index_key(self._namespace, owner))
        tags = self.tags(owner) if tags is None else tags
        return _give_back(self._broker, self._restore, hash_key, zset_key, tags)


class StockUnacked:
    """What stock workers held when they died. Only stock workers look for it, and there may be none any more.

    It comes back after kombu's visibility timeout, as if one of them had looked. `options` are the app's own
    broker_transport_options.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._hash = str(options.get("unacked_key") or "unacked")
        self._zset = str(options.get("unacked_index_key") or "unacked_index")
        self._visible_after_s = float(options.get("visibility_timeout") or VISIBILITY_S)
        self._since_s = 0.0

    def look(self, broker: Broker, elapsed_s: float) -> int:
        """Called every beat; looks every LOOK_S. Returns how many messages went back."""
        self._since_s += elapsed_s
        if self._since_s < min(LOOK_S, self._visible_after_s):
            return 0
        self._since_s = 0.0
        hash_key, zset_key = broker.key(self._hash), broker.key(self._zset)
        oldest = time.time() - self._visible_after_s  # kombu's scores are the clocks of workers
        rows = cast("list[bytes]", broker.client.zrevrangebyscore(zset_key, oldest, "-inf", start=0, num=AT_ONCE))
        restore = broker.script(lua.source(__package__, "restore.lua"))
        return _give_back(broker, restore, hash_key, zset_key, [row.decode() for row in rows])


def _give_back(broker: Broker, restore: Any, hash_key: str, zset_key: str, tags: list[str]) -> int:
    moved = 0
    for tag in tags:
        entry = cast("bytes | None", broker.client.hget(hash_key, tag))
        if entry is None:
            broker.client.zrem(zset_key, tag)
            continue
        try:
            queue, message = _restored(entry, broker)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("celeriac: a mangled message stays in %s[%s]: %s", hash_key, tag, describe(error))
            continue
        moved += int(restore(keys=[hash_key, zset_key, broker.key(queue)], args=[tag, message]))
    return moved


class FormerConnection:
    """After a reconnect: returns what the last connection held and nobody runs any more.

    A task that still runs stays held, so that nobody else runs it; when it ends it acknowledges itself. Whatever is
    neither running nor acknowledged at two looks in a row is given back.
    """

    def __init__(self, namespace: str, owner: str, running: Callable[[], set[str]]) -> None:
        self._namespace = namespace
        self._owner = owner
        self._running = running
        self._connected_at: float | None = None
        self._idle: set[str] = set()

    def begin(self, connected_at: float) -> None:
        """A new connection stands; what was delivered before this Unix time came over a former one."""
        self._connected_at = connected_at

    def look(self, broker: Broker) -> int:
        """One look; returns how many messages went back."""
        if self._connected_at is None:
            return 0
        unacked = Unacked(broker, self._namespace)
        tags = unacked.tags(self._owner, self._connected_at)
        idle = set(tags) - self._running()
        lost = [tag for tag in tags if tag in idle and tag in self._idle]
        self._idle = idle
        if not tags:
            self._connected_at = None
        return unacked.give_back(self._owner, lost)


def _restored(entry: bytes, broker: Broker) -> tuple[str, str]:
    """Queue key and message text of an unacked entry, marked as redelivered."""
    payload, exchange, routing_key = json.loads(entry)
    properties = payload.get("properties") or {}
    delivery = properties.setdefault("delivery_info", {})
    payload.setdefault("headers", {})["redelivered"] = True
    delivery["redelivered"] = True
    try:
        priority = int(properties.get("priority") or delivery.get("priority") or 0)
    except (TypeError, ValueError):
        priority = 0  # kombu reads an unusable priority as 0 too
    queue = broker.queue_of(str(exchange or ""), str(routing_key))
    return broker.list_of(queue, priority), json.dumps(payload)
