"""This process's line to the shared state: ask it while it answers, count alone while it does not, and say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from resilience.shared_redis import STORE_ERRORS
from signals.bus import Bus
from signals.events import Event, StoreAway, StoreBack
from signals.redact import describe

T = TypeVar("T")


class Link:
    """Knows whether the store answers. Only who calls `left` and `returned` from a watcher knocks while it does not."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._away_since: float | None = None
        self._lock = threading.Lock()

    @property
    def away(self) -> bool:
        return self._away_since is not None

    def ask(self, shared: Callable[[], T], alone: Callable[[], T]) -> T:
        """`shared()`, or `alone()` while the store is away. Waits at most a store timeout, raises no STORE_ERRORS."""
        if self._away_since is None:
            try:
                return shared()
            except STORE_ERRORS as error:
                self.left(error)
        return alone()

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
