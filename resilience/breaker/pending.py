"""Successes that wait for company, so that a busy circuit costs a command per tenth of a second, not per call."""

from __future__ import annotations

import threading
import time

FLUSH_AFTER_S = 0.1


class Pending:
    """Per circuit: the epoch, how many successes, and how many of them were slow. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, int, int]] = {}
        self._sent_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, epoch: int, slow: bool) -> tuple[int, int] | None:
        """Count a success. Returns the successes to send now, and the slow ones among them; None: not yet."""
        now = time.monotonic()
        with self._lock:
            known_epoch, count, slow_ones = self._waiting.get(name, (epoch, 0, 0))
            if known_epoch != epoch:
                count = slow_ones = 0  # admitted under another epoch: nobody would count them any more
            count, slow_ones = count + 1, slow_ones + slow
            if now - self._sent_at.get(name, -1.0) < FLUSH_AFTER_S:
                self._waiting[name] = (epoch, count, slow_ones)
                return None
            self._waiting.pop(name, None)
            self._sent_at[name] = now
            return count, slow_ones

    def take(self, name: str, epoch: int) -> tuple[int, int]:
        """The successes that wait under `epoch`, and the slow ones among them, to travel with a failure."""
        with self._lock:
            known_epoch, count, slow_ones = self._waiting.pop(name, (epoch, 0, 0))
            self._sent_at[name] = time.monotonic()
            return (count, slow_ones) if known_epoch == epoch else (0, 0)

    def take_all(self) -> dict[str, tuple[int, int, int]]:
        """Everything that waits: epoch, successes, slow ones, by circuit."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            return waiting
