"""What a turn brings: messages, which are handed to the worker; and the word that there are some."""

from __future__ import annotations

import time
from queue import Empty

import redis

from resilience.delivery.ends import stops_cold
from resilience.delivery.envelope import ENTRY, UnreadableError, read, redelivered
from resilience.delivery.turns import Taken, Turns

LONGEST_PORTION_S = 0.5
"""What a worker that runs tasks in its loop took at once, and what did not run within this time, goes back."""

UNTOLD_S = 0.05
"""How long what ended waits while the loop stands still: a kill meanwhile has it run again."""


class Arrivals(Turns):
    """Replies to the turns and to the waits of an idle worker."""

    def _on_turn(self) -> bool:
        """The reply to a turn: deliver what was taken."""
        try:
            taken = self._reply()
        except redis.ResponseError as error:
            self._refused(error)
            taken = []
        if taken and self.held.blocks:
            self._stop_waiting()  # nothing must arrive while the loop stands still
            unwanted = self._run(taken)
        else:
            unwanted = [tag for tag, source, raw in taken if not self._begin(tag, source, raw)]
        if unwanted and stops_cold():
            self.held.give_back_idle(redelivered)  # in one step with what waits here and is older: or it comes before
        for tag in reversed(unwanted):
            self.held.give_back(tag, redelivered)
        self._plan_to_linger()
        if not taken:
            raise Empty
        return True

    def _run(self, taken: list[Taken]) -> list[str]:
        """Of a solo worker: what it hands over runs before this goes on. Returns the tags of what it did not."""
        begun_s = time.monotonic()
        more = len(taken) == self._asked  # it got all that it asked for: so there may be more
        unwanted = []
        for number, (tag, source, raw) in enumerate(taken):
            if number and time.monotonic() - begun_s > LONGEST_PORTION_S:
                unwanted += [tag for tag, *_ in taken[number:]]
                break
            if time.monotonic() - self._told_at > UNTOLD_S:
                self._tell_in_between()
            elif more and number and number == len(taken) - 1:
                self._ask_ahead()
            if not self._begin(tag, source, raw):
                unwanted.append(tag)
        ran = max(1, len(taken) - len(unwanted))
        self._portions.ran(ran, time.monotonic() - begun_s)
        return unwanted

    def _begin(self, tag: str, source: str, raw: bytes) -> bool:
        """False if the worker does not consume this queue any more: a signal came."""
        queue = self._queue_of(source)
        if queue not in self._active_queues:
            return False
        if self.held.begin(tag):  # else it went back while the worker was inside the one before it
            self._deliver(tag, source, raw, queue)
        return True

    def _ask_ahead(self) -> None:
        """A solo worker whose tasks are short asks for more before the last one: no task has to wait for the answer."""
        room = self._room() - 1  # the last one itself is not counted yet
        if room > 0 and not self.held.stopping:
            try:
                self.held.asks_ahead()
                self._send(room)
            except redis.ResponseError as error:
                self._refused(error)

    def _tell_in_between(self) -> None:
        """A solo worker runs all that it took in one turn: what ended must not wait for the last of them."""
        if self.held.waits_to_be_told:
            try:
                self._send(room=0)
                self._reply()
            except redis.ResponseError as error:
                self._refused(error)

    def _queue_of(self, source: str) -> str:
        queue = self._queues.get(source)
        if queue is None:
            queue = self._queues[source] = str(source[len(self.global_keyprefix) :].rsplit(self.sep, 1)[0])
        return queue

    def _deliver(self, tag: str, source: str, raw: bytes, queue: str) -> None:
        self._queue_cycle.rotate(queue)
        try:
            payload = read(raw)
            payload["properties"]["delivery_tag"] = tag
            payload[ENTRY] = source, raw
        except Exception as error:  # noqa: BLE001  whatever a decoder makes of hostile bytes: deep nesting, odd types
            self._refuse(tag, source, raw, error)
            return
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001  what kombu's own channels call
        except UnreadableError as error:
            self._refuse(tag, source, raw, error.because)

    def _refuse(self, tag: str, source: str, raw: bytes, error: Exception) -> None:
        """There is no message in these bytes. Without somebody who takes them, that is an error as in kombu."""
        if self.held.unreadable is None:
            raise error
        self.held.unreadable(self.held, tag, source, raw, error)

    def _on_wait(self, source: str) -> bool:
        try:
            moved = self._waits.ended(source)
        except redis.ResponseError as error:
            self._refused(error)
            self._idle = False  # nobody will tell that there is a message: the turn after the rest looks
            raise Empty from None
        if not moved:
            raise Empty
        self._idle, self._moved = False, True
        return True

    def _stop_waiting(self) -> None:
        """End all waits; what arrived in the last moment goes back to its source, now or by the next turn."""
        try:
            self._moved = self._waits.end(self._main) or self._moved
            if self._moved:
                self._send(room=0)
                self._reply()
        except redis.ResponseError as error:
            self._refused(error)
