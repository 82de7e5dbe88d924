"""What one process believes of the circuits: read without a lock on every call, written when it is told better."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from resilience.breaker.machine import State
from resilience.breaker.store import IndexEntry

PASSES_EVERY_S = 1.0


@dataclass(frozen=True)
class View:
    """What this process believes of a circuit; `probe_at` is on this process's monotonic clock."""

    state: State
    epoch: int
    probe_at: float = 0.0

    @property
    def probe_in_s(self) -> float:
        """Seconds until an open circuit may be probed; 0 when it may be now, or is not open."""
        return max(0.0, self.probe_at - time.monotonic()) if self.state is State.OPEN else 0.0


class Views:
    """Views by circuit. A newer epoch replaces an older one; never the other way, except by `refresh`."""

    def __init__(self) -> None:
        self._views: dict[str, View] = {}
        self._passes: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()
        self.get = self._views.get

    def snapshot(self) -> dict[str, View]:
        with self._lock:
            return dict(self._views)

    def see(self, name: str, entry: IndexEntry) -> None:
        """Learn a circuit's state, unless something newer is known."""
        with self._lock:
            self._see(name, entry)

    def refresh(self, before: dict[str, View], index: dict[str, IndexEntry]) -> None:
        """Take over an index that was read after `before` was taken: where it is behind, somebody emptied Redis."""
        with self._lock:
            for name, view in before.items():
                entry = index.get(name)
                if self._views.get(name) is not view:
                    continue
                if entry is None:
                    del self._views[name]
                elif entry.epoch <= view.epoch:
                    self._views[name] = _view(entry)
            for name, entry in index.items():
                self._see(name, entry)

    def take_pass(self, name: str, limit: int) -> bool:
        """One of `limit` passes a second for a circuit near half-open; a new state starts anew."""
        now = time.monotonic()
        with self._lock:
            since, count = self._passes.get(name, (now, 0))
            if now - since >= PASSES_EVERY_S:
                since, count = now, 0
            self._passes[name] = (since, count + 1)
        return count < limit

    def _see(self, name: str, entry: IndexEntry) -> None:
        known = self._views.get(name)
        if known is None or entry.epoch > known.epoch:
            self._views[name] = _view(entry)
            self._passes.pop(name, None)


def _view(entry: IndexEntry) -> View:
    return View(entry.state, entry.epoch, time.monotonic() + entry.remaining_ms / 1000)
