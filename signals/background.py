"""A sink in a thread of its own, so that a slow or dead face never holds up the work that it shows."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading

from signals.bus import Sink
from signals.events import Event
from signals.redact import describe

CAPACITY = 1000
END_WITHIN_S = 1.0

logger = logging.getLogger("celeriac")


class Background:
    """Calls `sink` on a daemon thread, in order; beyond `CAPACITY` waiting, new ones are dropped, and it is said."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.drain, END_WITHIN_S)  # a command says one thing and ends

    def _begin(self) -> None:
        self._waiting: queue.Queue[Event] = queue.Queue(CAPACITY)
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self._full = False

    def __call__(self, event: Event) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeriac-sink", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            if not self._full:
                self._full = True
                logger.warning(
                    "celeriac: %r is too slow; events are dropped from here on until it catches up", self._sink
                )

    def drain(self, within_s: float) -> bool:
        """Wait until the sink was given all that waits, at most `within_s` seconds; whether it was."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, within_s)

    def _run(self) -> None:
        while True:
            event = self._waiting.get()
            try:
                self._sink(event)
                self._full = False
            except Exception as error:  # noqa: BLE001  a face of the system must not fail the work it shows
                logger.debug("celeriac: %r could not show %s: %s", self._sink, event.kind, describe(error))
            finally:
                self._waiting.task_done()
