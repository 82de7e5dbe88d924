"""What a worker does about tasks that are due later: hands them to Redis, moves those that are due, finds revoked ones.

Times are the server's: its clock alone says what is due, and a worker whose own clock is behind would otherwise hand
a released message over again and again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from celery.worker import state as worker_state

from resilience.delivery.delayed import Delayed
from resilience.delivery.eta import Appointment, appointment, appointment_at
from resilience.delivery.held import as_it_is

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

LOOK_AT_LEAST_S = 0.002
"""Between two looks at a time that has nearly come."""

REVOKED_LOOKS = 4
"""A revoked message may be on its way to Redis while it is looked for: look again."""


class Later:
    """One per worker. `takes` is called by the consumer's loop, `look` by the pulse, `revoke` by remote control.

    `ring` has the pulse look at a given monotonic time, if that is before its next beat.
    """

    def __init__(self, namespace: str, owner: str, beat_s: float, ring: Callable[[float], None]) -> None:
        self._namespace = namespace
        self._owner = owner
        self._beat_s = beat_s
        self._ring = ring
        self._ahead_s = 0.0
        self._known: tuple[Broker, Delayed] | None = None
        self._revoked: dict[str, int] = {}

    def takes(self, message: Any, body: Any) -> bool:
        """Hand the message over if its task is due later; the caller then acknowledges it. False: it is Celery's.

        A revoked task is Celery's at once: it is discarded now and not when it would be due.
        """
        fields = message.headers if body is None else body  # protocol 1 has everything in its body
        if not isinstance(fields, dict) or not fields.get("eta") or not getattr(message.channel, "owned", False):
            return False
        now_s = time.time() + self._ahead_s
        due = appointment(fields, now_s)
        if due is None or due.task_id in worker_state.revoked:
            return False
        return self._hands_over(message, due, now_s)

    def puts_off(self, message: Any, delay_s: float, rewrite: Callable[[bytes], bytes]) -> bool:
        """Have a task that began run again in so many seconds, its message as `rewrite` makes it; False: it cannot wait
        so, or is not held any more.
        """
        now_s = time.time() + self._ahead_s
        due = appointment_at(now_s + delay_s, message.headers)
        return due is not None and self._hands_over(message, due, now_s, rewrite)

    def _hands_over(
        self, message: Any, due: Appointment, now_s: float, rewrite: Callable[[bytes], bytes] = as_it_is
    ) -> bool:
        if not message.channel.held.hand_over(message.delivery_tag, due.label, rewrite):
            return False
        wait_s = due.due_s - now_s
        if wait_s < 2 * self._beat_s:
            self._ring(time.monotonic() + wait_s)  # whoever looks for the fleet may not know of it before its next beat
        return True

    def look(self, broker: Broker) -> float:
        """Move what is due; returns the monotonic time of the next look, infinity for "at the next beat"."""
        delayed = self._delayed_of(broker)
        self._bring_revoked_forward(delayed)
        asked_s = time.time()
        look = delayed.release()
        answered_s = time.time()
        self._ahead_s = look.now_s - (asked_s + answered_s) / 2
        if look.back_s is None:
            return math.inf
        return time.monotonic() + max(LOOK_AT_LEAST_S, look.back_s - look.now_s)

    def revoke(self, task_ids: Iterable[str]) -> None:
        """These tasks were revoked: have their messages go to a worker, which discards them as Celery does."""
        for task_id in task_ids:
            self._revoked[task_id] = REVOKED_LOOKS
        self._ring(time.monotonic())

    def _delayed_of(self, broker: Broker) -> Delayed:
        if self._known is None or self._known[0] is not broker:
            self._known = broker, Delayed(broker, self._namespace, self._owner, lease_s=3 * self._beat_s)
        return self._known[1]

    def _bring_revoked_forward(self, delayed: Delayed) -> None:
        if not self._revoked:
            return
        task_ids = list(self._revoked)
        delayed.bring_forward(task_ids)
        for task_id in task_ids:
            self._revoked[task_id] -= 1
            if not self._revoked[task_id]:
                del self._revoked[task_id]
