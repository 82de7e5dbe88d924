"""What wakes the pulse before its next beat, from any thread: somebody wants the beat now, or something is due."""

from __future__ import annotations

import math
import threading
import time


class Alarm:
    """Times are monotonic."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beat = False
        self._at = math.inf

    def beat_now(self) -> None:
        """Let the beat come at once."""
        with self._changed:
            self._beat = True
            self._changed.notify()

    def begin(self) -> None:
        """A beat begins: what wanted one before is served by it."""
        with self._changed:
            self._beat = False

    def ring(self, at: float) -> None:
        """Wake at this time, if nothing else does before."""
        with self._changed:
            if at < self._at:
                self._at = at
                self._changed.notify()

    def wait(self, next_beat: float) -> bool:
        """Sleep; True when it is time for the beat, False when it rang before that."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._beat or now >= next_beat:
                    return True
                if now >= self._at:
                    self._at = math.inf
                    return False
                self._changed.wait(min(self._at, next_beat) - now)
