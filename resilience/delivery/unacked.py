"""What one owner holds unacknowledged, under stock transport: two keys per worker process instead of one for all.

Kombu keeps delivered messages in a hash (tag -> [message, exchange, routing key]) and a sorted set (tag -> time). With
keys named after their owner, a dead owner's messages are known, and come back by its lapsed pulse, not by a timeout.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from resilience import lua
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

logger = logging.getLogger("celeriac")

NEVER_S = 10 * 365 * 86400
"""Kombu's visibility timeout with owners: a message is its owner's as long as the owner lives."""


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
        moved = 0
        for tag in self.tags(owner) if tags is None else tags:
            entry = cast("bytes | None", self._broker.client.hget(hash_key, tag))
            if entry is None:
                self._broker.client.zrem(zset_key, tag)
                continue
            try:
                queue, message = _restored(entry, self._broker)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                why = describe(error)
                logger.warning("celeriac: a mangled message of %s stays in %s[%s]: %s", owner, hash_key, tag, why)
                continue
            moved += int(self._restore(keys=[hash_key, zset_key, self._broker.key(queue)], args=[tag, message]))
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
