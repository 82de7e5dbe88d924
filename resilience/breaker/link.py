"""This process's line to the shared state: ask it while it answers, count alone while it does not, and say so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import redis

from resilience.shared_redis import STORE_ERRORS
from signals.bus import Bus
from signals.events import Event, StoreAway, StoreBack
from signals.redact import describe

T = TypeVar("T")

_ANSWERED = (redis.ResponseError, redis.InvalidResponse)
"""The store did answer: it takes no writes now, or what it holds of this one circuit is damaged."""

AT_ONCE = 16
"""So many threads or greenlets of a process ask at once: each needs a connection, and redis-py refuses to open more
than a hundred; the shake of hands of each costs more than an answer."""

logger = logging.getLogger("celeriac")


class Link:
    """Knows whether the store answers. Only who calls `left` and `returned` from a watcher knocks while it does not.

    `knock` raises one of STORE_ERRORS while the store takes no writes; `timeout_s` is how long a call may wait for it.
    """

    def __init__(self, bus: Bus, knock: Callable[[], None], timeout_s: float) -> None:
        self._bus = bus
        self._knock = knock
        self.timeout_s = timeout_s
        self._places = threading.Semaphore(AT_ONCE)
        self._away_since: float | None = None
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too

    @property
    def away(self) -> bool:
        return self._away_since is not None

    def ask(self, shared: Callable[[], T], alone: Callable[[], T], what: str = "circuits") -> T:
        """`shared()`, or `alone()` while the store is away. Waits at most a store timeout, raises no STORE_ERRORS.

        Where the store answers but refuses `what`, because what it holds of it is damaged, only that is told by
        `alone()`, and the store is not away for the others.
        """
        if self._away_since is not None:
            return alone()
        if not self._places.acquire(timeout=self.timeout_s):
            self.left(redis.TimeoutError(f"{AT_ONCE} calls wait for it for {self.timeout_s:g} s"))
            return alone()
        try:
            if self._away_since is None:  # it may have gone while this call waited for its place
                return shared()
        except STORE_ERRORS as error:
            if self._is_damage(error):
                _say_once(f"{what}: Redis answers but refuses this, so it is counted alone: {describe(error)}")
            else:
                self.left(error)
        finally:
            self._places.release()
        return alone()

    def _is_damage(self, error: Exception) -> bool:
        if not isinstance(error, _ANSWERED):
            return False
        try:
            self._knock()
        except STORE_ERRORS:
            return False
        return True

    def left(self, error: Exception) -> None:
        """The store did not answer. Said once, until it is back."""
        event: Event | None = None
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
                event = StoreAway(describe(error))
        if event is not None:
            self._bus.publish(event)

    def returned(self) -> None:
        """The store answers and takes writes again. Said once."""
        event: Event | None = None
        with self._lock:
            if self._away_since is not None:
                event = StoreBack(time.monotonic() - self._away_since)
                self._away_since = None
        if event is not None:
            self._bus.publish(event)


@lru_cache(maxsize=100)
def _say_once(sentence: str) -> None:
    logger.warning("celeriac: %s", sentence)
