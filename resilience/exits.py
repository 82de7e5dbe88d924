"""The way out of a worker for messages that it cannot, or shall not, run: first into the quarantine, then acknowledged.

When Redis refuses (away, or full), the message stays unacknowledged: it is tried again every second, and after a
reconnect it is delivered again. Nothing of it ends the worker.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resilience import identity
from resilience.delivery.envelope import ENTRY
from resilience.quarantine.reading import rebuilt
from resilience.quarantine.record import Arrival, Reason
from resilience.router import queue_of
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core
    from resilience.delivery.held import Held

RETRY_S = 1.0
TEND_EVERY_S = 60.0

logger = logging.getLogger("celeriac")


@dataclass(frozen=True)
class _Leaving:
    arrival: Arrival
    settle: Callable[[], object]
    comes_again: bool
    """Whether the broker still has it: then a new connection brings it again."""


class Exits:
    """One per app. `leave` is called from the worker's loop and from threads of its pool."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: deque[_Leaving] = deque()
        self._lock = threading.Lock()
        self._later: Callable[[float, Callable[[], None]], object] | None = None
        self._since_tended_s = 0.0

    @property
    def on(self) -> bool:
        """Whether there is a quarantine."""
        return self._core.quarantine_on

    def leave(self, arrival: Arrival, settle: Callable[[], object], comes_again: bool = True) -> None:
        """Quarantine a message, then `settle` it with the broker; at once if Redis takes it, else when it does."""
        leaving = _Leaving(arrival, settle, comes_again)
        with self._lock:
            behind_others = bool(self._waiting)
            if behind_others:
                self._waiting.append(leaving)
        if not behind_others and not self._went(leaving):
            with self._lock:
                self._waiting.append(leaving)
            self._try_later()

    def of_message(self, message: Any, reason: Reason, detail: str, **known: Any) -> Arrival:
        """The arrival of a message that kombu delivered."""
        payload = getattr(message, "_raw", None)
        source, raw = payload.get(ENTRY, ("", b"")) if isinstance(payload, dict) else ("", b"")
        if not raw:
            raw = _as_it_lay(payload) or rebuilt(message)
        address = message.delivery_info if isinstance(message.delivery_info, dict) else {}
        queue = "" if source else queue_of(self._core.app.amqp.queues.consume_from, address)
        owner = identity.owner()
        return Arrival(raw, reason, detail, source, queue, key=f"{owner}:{message.delivery_tag}", worker=owner, **known)

    def unreadable(self, held: Held, tag: str, source: str, raw: bytes, error: Exception) -> None:
        """For the transport: bytes in which kombu finds no message."""
        arrival = Arrival(
            raw, Reason.UNDECODABLE, describe(error), source, key=f"{held.owner}:{tag}", worker=held.owner
        )
        self.leave(arrival, lambda: held.ack(tag))

    # -- when Redis refuses ------------------------------------------------------------------------------------

    def connected(self, consumer: Any) -> None:
        """A new connection: what a former one delivered comes again, and is judged again."""
        self._later = consumer.timer.call_after
        with self._lock:
            stay = [leaving for leaving in self._waiting if not leaving.comes_again]
            self._waiting.clear()
            self._waiting.extend(stay)
        if stay:
            self._try_later()

    def last_try(self) -> None:
        """The worker ends: what the broker would not bring again is lost if this fails, and that is said."""
        for leaving in [*self._waiting]:
            if not leaving.comes_again and not self._went(leaving):
                logger.error("celeriac: lost with this worker: %r", leaving.arrival.raw[:1000])
        self._waiting.clear()

    def tend(self, elapsed_s: float) -> None:
        """Called with every beat; now and then, what is too old is dropped."""
        self._since_tended_s += elapsed_s
        if self._since_tended_s >= TEND_EVERY_S and self.on:
            self._since_tended_s = 0.0
            self._core.quarantine.tend()

    def _try_later(self) -> None:
        if self._later is not None:
            self._later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        while True:
            with self._lock:
                leaving = self._waiting[0] if self._waiting else None
            if leaving is None:
                return
            if not self._went(leaving):
                self._try_later()
                return
            with self._lock:
                if self._waiting and self._waiting[0] is leaving:
                    self._waiting.popleft()

    def _went(self, leaving: _Leaving) -> bool:
        try:
            self._core.quarantine.put(leaving.arrival)
        except Exception as error:  # noqa: BLE001  Redis away, full or odd: a message that cannot leave must not end the worker
            logger.error(  # noqa: TRY400  a sentence: what it was, and what happens next
                "celeriac: the quarantine did not take a message (%s), so it is not acknowledged; again in %g s: %s",
                leaving.arrival.reason.value, RETRY_S, describe(error),
            )  # fmt: skip
            return False
        leaving.settle()
        return True


def _as_it_lay(payload: Any) -> bytes:
    """The text of a message that kombu's own Redis transport delivered; b"" for a transport without such a text."""
    try:
        return json.dumps(payload).encode() if isinstance(payload, dict) else b""
    except (TypeError, ValueError, RecursionError):
        return b""
