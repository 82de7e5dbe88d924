"""What one process believes of the circuits: read without a lock on every call, written when it is told better."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from resilience.breaker.machine import State
from resilience.breaker.store import NO_END, IndexEntry

PASSES_EVERY_S = 1.0


class Stance(Enum):
    """What a view alone says about a call."""

    PASS = "pass"  # noqa: S105  no password
    """Admit and record it."""
    RAMP = "ramp"
    """Closed since a moment: admit a growing share."""
    UNRECORDED = "unrecorded"
    """Admit it; its outcome does not count."""
    REFUSE = "refuse"
    ASK = "ask"
    """Only the store can say: a probe, or a state whose time is over."""


_UNTIL_ITS_END = {
    State.OPEN: Stance.REFUSE,
    State.FORCED_OPEN: Stance.REFUSE,
    State.DISABLED: Stance.UNRECORDED,
    State.METRICS_ONLY: Stance.PASS,
}
_SILENT = frozenset({State.OPEN, State.FORCED_OPEN, State.DISABLED})


@dataclass(frozen=True)
class View:
    """What this process believes of a circuit; `ends_at` is on this process's monotonic clock, None: no end."""

    state: State
    epoch: int
    ends_at: float | None = None

    @cached_property
    def free(self) -> bool:
        """Closed, and no ramp to look after: the path of nearly every call."""
        return self.state is State.CLOSED and self.ends_at is None

    @property
    def remaining_s(self) -> float:
        """Seconds until the state or its ramp ends; 0 when that is over, or has no end."""
        return max(0.0, self.ends_at - time.monotonic()) if self.ends_at is not None else 0.0

    @property
    def deaf(self) -> bool:
        """Whether an outcome changes nothing, so that it need not be reported. One after a forced state's end does."""
        return self.state in _SILENT and (self.state is State.OPEN or self.stance() is not Stance.ASK)

    def stance(self) -> Stance:
        over = self.ends_at is not None and time.monotonic() >= self.ends_at
        if self.state is State.CLOSED:
            return Stance.PASS if over or self.ends_at is None else Stance.RAMP
        if over:
            return Stance.ASK
        return _UNTIL_ITS_END.get(self.state, Stance.ASK)


class Views:
    """Views by circuit. A newer epoch replaces an older one; never the other way, except by `refresh`."""

    def __init__(self) -> None:
        self._views: dict[str, View] = {}
        self._passes: dict[str, tuple[float, int]] = {}
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too
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
        """One of `limit` passes a second for a circuit that lets only some calls through; a new state starts anew."""
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
    ends_at = None if entry.remaining_ms == NO_END else time.monotonic() + entry.remaining_ms / 1000
    if entry.state is State.CLOSED and entry.remaining_ms == 0:
        ends_at = None  # a ramp that is over is none
    return View(entry.state, entry.epoch, ends_at)
