"""Whether this worker takes tasks: anybody may take it out of rotation for a reason, and back when that is gone.

Out of rotation it consumes no queue but its own, what it had not begun goes back to the front of its queue in order,
what runs runs on. It says so: an event, the log, its record in the registry; it counts as unhealthy meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience.workers.consuming import Consuming
from resilience.workers.turning import at_every_turn
from signals.bus import Bus
from signals.events import WorkerBackInRotation, WorkerOutOfRotation
from signals.redact import one_line, redact

if TYPE_CHECKING:
    from resilience.delivery.held import Held

LOOK_EVERY_S = 0.25
"""How often the consumer's loop looks whether it still does what was asked of it."""

logger = logging.getLogger("celeriac")


class Rotation:
    """One per app; works in the main process of a worker, from any thread. Everywhere else it does nothing.

    Each reason to be out has an owner, `by`: a worker is back when nobody has a reason any more.
    `on_change` is called after every change; `on_look` every quarter of a second, by the consumer's loop.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._pid = 0
        self._owner = ""
        self._reasons: dict[str, str] = {}
        self._since = 0.0
        self._lock = threading.Lock()
        self._consuming: Consuming | None = None
        self.on_change: list[Callable[[], None]] = []
        self.on_look: list[Callable[[], None]] = []

    @property
    def is_worker(self) -> bool:
        """Whether this is the main process of a worker."""
        return self._pid == os.getpid()

    @property
    def why(self) -> str:
        """Why this worker is out of rotation, in one line; "" while it takes tasks."""
        with self._lock:
            return "; ".join(self._reasons.values())

    def leave_rotation(self, why: str, by: str = "operator") -> bool:
        """Take no further tasks, and give back what is not begun, until `by` has it return.

        True if this is a worker's main process. Returns at once: the consumer's loop does it when it comes round. A
        solo worker that is inside a task gives back what waits behind it.
        """
        if not self.is_worker:
            return False
        why = one_line(redact(why), 300) or "no reason was given"
        with self._lock:
            first, known = not self._reasons, self._reasons.get(by) == why
            self._reasons[by] = why
            if first:
                self._since = time.monotonic()
        if not known:
            if first:
                self._bus.publish(WorkerOutOfRotation(self._owner, why))
            self._changed()
        return True

    def return_to_rotation(self, by: str = "operator") -> bool:
        """The reason that `by` gave is gone. True if the worker takes tasks now, or as soon as its loop comes round."""
        with self._lock:
            had = self._reasons.pop(by, None)
            back, away_s = not self._reasons, time.monotonic() - self._since
        if had is not None:
            if back:
                self._bus.publish(WorkerBackInRotation(self._owner, away_s))
            self._changed()
        return back and self.is_worker

    # -- for the worker's life ---------------------------------------------------------------------------------

    def begin(self, owner: str) -> None:
        """This process is the main process of a worker, known as `owner`."""
        self._pid, self._owner = os.getpid(), owner

    def attach(self, consumer: Any, own_queue: str, held: Held | None) -> None:
        """A connection stands, and nothing was taken over it yet. Called in the consumer's loop."""
        self._consuming = Consuming(consumer, own_queue, held)
        self._look()
        at_every_turn(consumer, LOOK_EVERY_S, self._look)

    def _changed(self) -> None:
        consuming = self._consuming
        if consuming is not None:
            if self._reasons:
                consuming.give_back_behind()
            consuming.call_soon(self._look)
        for heard in self.on_change:
            heard()

    def _look(self) -> None:
        """In the consumer's loop: do what is asked. A failure must not end the loop; the next look tries again."""
        for looks in self.on_look:
            looks()
        consuming = self._consuming
        assert consuming is not None
        try:
            consuming.follow(out=bool(self._reasons))
        except consuming.connection_errors:
            raise
        except Exception:
            logger.exception("celeriac: could not change what this worker consumes; again in %g s", LOOK_EVERY_S)
