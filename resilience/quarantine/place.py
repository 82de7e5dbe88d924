"""The Redis that the quarantine lies in: the broker's own, or, with another broker, the one of the circuits."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilience.delivery.broker import BROKER_ERRORS, TIMEOUT_S


class Place(Protocol):
    """A client of a Redis database and the names of its keys; `Broker` is one."""

    client: redis.Redis

    def key(self, name: str) -> str: ...

    def close(self) -> None: ...


class StorePlace:
    """A Redis that is no broker. `url` as redis-py reads it."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)

    def key(self, name: str) -> str:
        return name

    def close(self) -> None:
        self.client.close()


class Held:
    """One place per process, opened when it is first needed and anew after it failed. Never waits for a retry."""

    def __init__(self, open_place: Callable[[], Place]) -> None:
        self._open = open_place
        self._lock = threading.Lock()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._place: Place | None = None  # a child does not touch its parent's connections
        self._lock = threading.Lock()

    @contextmanager
    def use(self) -> Iterator[Place]:
        """The place; after one of BROKER_ERRORS it is closed, and the next use opens another."""
        with self._lock:
            if self._place is None:
                self._place = self._open()
                self._place.client.connection_pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)
            place = self._place
        try:
            yield place
        except BROKER_ERRORS:
            self.close()
            raise

    def close(self) -> None:
        with self._lock:
            place, self._place = self._place, None
        if place is not None:
            with suppress(*BROKER_ERRORS):  # it is broken: closing it may fail in the same way
                place.close()
