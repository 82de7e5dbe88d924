"""A turn of the loop: one call of the script tells what ended and asks for what there is room for."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from itertools import chain

import redis

from resilience import lua
from resilience.delivery.lines import Packed
from resilience.delivery.owning import Owning
from resilience.delivery.poller import OwnedPoller
from resilience.delivery.refusals import is_no_primary
from resilience.delivery.told import Told

BATCH = 100
"""Messages taken at once by a worker without a prefetch limit."""

LATE_S = 0.5
"""Of what an answer brings that was read so late, others may own some by now: it is asked for."""

OVERDUE_S = 7
"""A reply that is so late comes from a connection that is gone: within 10 s the worker is to work on another one."""

LOOK_S = 5.0
"""How often a worker looks for what moved while it waited over a connection whose end nobody told the server."""

LINGER_S = 0.002
"""A worker with enough to do tells what ended so much later than it could, together with what ends meanwhile."""

QUIET_LINGER_S, FEW = 0.004, 2
"""The same, and how many tasks are enough, where a pool runs them one by one in threads of this very process: a loop
that wants the interpreter's lock slows the task that has it, and gets it when that pauses."""

REST_S = 1.0
"""A server that refuses a turn, because it is full or cannot write, is asked again so much later."""

SAY_S = 60.0
"""A refusal is told in the log, and again when it lasts so long."""

BUSY_S = 5.0
"""A worker that held something for so long without a pause offers to make room for a message that must run alone."""

Taken = tuple[str, str, bytes]
"""A message: the tag by which this worker owns it, the list where it lay, its text."""

_TURN = lua.source(__package__, "turn.lua")

logger = logging.getLogger("celeriac")


class Turns(Owning):
    """When there is a turn, and what it says."""

    def turn(self, poller: OwnedPoller) -> None:
        """Tell what ended and ask for what there is room for; or, when there was nothing, wait for it."""
        self._thread = threading.get_ident()
        self._woken, self._missed, self._lingers = True, False, False  # before it is asked what there is to tell
        self._poller = poller
        poller.attach(self, self._wake)
        try:
            self._turn()
        finally:
            self._woken = False
        if self._missed:
            self._wake_if_due()

    def _wake_if_due(self) -> None:
        """Have the loop come round, unless it does so by itself before what ended is overdue."""
        if self._main.busy or (self._lingers and self._has_enough):
            return
        self._woken = True
        self._wake()

    def _turn(self) -> None:
        self._drop_overdue()
        self._obey()
        if self._main.busy or time.monotonic() < self._rests_until:
            self.say_started()
            return
        try:
            self._take_turn()
        except redis.ResponseError as error:
            self._refused(error)

    def _obey(self) -> None:
        """Raises ConnectionError when this worker shall connect anew."""
        why, self.held.reconnect_why = self.held.reconnect_why, ""
        if why:
            raise redis.ConnectionError(f"this worker connects anew: {why}")
        if self.held.lapsed:
            raise redis.ConnectionError("the lease of this worker lapsed: it drops what it has not begun")

    def _take_turn(self) -> None:
        if time.monotonic() - self._looked_at > LOOK_S:
            self._moved = True
            self._marker.tend()
        room = self._room()
        if self._idle and not self.held.waits_to_be_told and not self._moved:
            if room:
                self._waits.begin(self.held.sources, self._poller)
            return
        if time.monotonic() < self._lingers_until and self._may_linger(room):
            self._lingers = True
            self.say_started()
        elif room or self._moved or self.held.waits_to_be_told:
            self._send(room)
            self._poller.attach(self, self._main)

    def _room(self) -> int:
        held = self.held
        if not self.active_queues or not self.qos.can_consume():
            return 0
        if len(held) and held.keeps_to_itself:
            return 0
        room = self.qos.can_consume_max_estimate()
        if self.qos.asks is not None:
            return 1  # it wants to be asked before every message
        most = self._portions.most if held.blocks else BATCH
        return most if room is None else min(int(room), most)

    def _plan_to_linger(self) -> None:
        """A reply was read: how long the next turn may wait for more to tell, if this worker holds something."""
        if len(self.held):
            due_s = self._main.sent_at + (QUIET_LINGER_S if self.held.one_by_one() else LINGER_S)
            if due_s > time.monotonic() and self._poller.come_round_at(due_s):
                self._lingers_until = due_s

    def _may_linger(self, room: int) -> bool:
        """Whether a turn may wait for more to tell: nothing is to be looked for, and there is enough to do."""
        return not self._moved and (not room or self._has_enough)

    @property
    def _has_enough(self) -> bool:
        """Whether there is enough to do until the answer. A worker without a window asks when it holds nothing."""
        window = self.qos.prefetch_count
        enough = window // 2 if window else 0
        return len(self.held) > (min(enough, FEW) if self.held.one_by_one() else enough)

    def _send(self, room: int) -> None:
        settled, started = self.held.settle(), self.held.unmarked()
        if self._moved:
            self._looked_at = time.monotonic()
        queues = tuple(self._queue_cycle.consume(len(self.active_queues))) if room else ()
        waited = self._waited | self._waits.sources if self._moved else ()
        sources, call = self._call(queues, waited)
        self._sent, self._asked = (settled, sources, self._moved), room
        self._moved, self._told_at = False, time.monotonic()  # what moves from now on is for the next turn
        self._main.send_packed(call.with_words(
            room, len(queues), len(sources), self._solitude(),
            len(settled.acked), *settled.acked,
            len(settled.returned), *(word for returned in settled.returned for word in returned),
            len(started), *started, self.held.connection,
        ))  # fmt: skip

    def _call(self, queues: tuple[str, ...], waited: Collection[str]) -> tuple[list[str], Packed]:
        """The lists to take from, and the call of the script with all its keys: that part is the same in most turns."""
        if not self._sha:
            self._sha = self._main.ask("SCRIPT", "LOAD", _TURN)
            self._calls.clear()
        if not waited and queues in self._calls:
            return self._calls[queues]
        sources = [self._prefixed(self._q_for_pri(queue, step)) for step in self.priority_steps for queue in queues]
        waits = [(self._wait_key(source), source) for source in waited]
        keys = [*self._keys, *sources, *chain.from_iterable(waits)]
        call = sources, Packed("EVALSHA", self._sha, len(keys), *keys)
        if not waited:
            self._calls[queues] = call
        return call

    def _solitude(self) -> str:
        """What this worker offers to a message that must run alone."""
        if self.held.out:
            return ""
        if not len(self.held):
            return "empty"
        return "drain" if time.monotonic() - self._busy_since > BUSY_S else ""

    def _reply(self) -> list[Taken]:
        settled, sources, moved = self._sent
        disowned = self.held.hears()
        try:
            told = Told.read(self._main.read_string())
        except redis.ResponseError as error:
            self._moved = self._moved or moved
            if not isinstance(error, redis.exceptions.NoScriptError):
                raise
            self._sha = ""  # somebody flushed the scripts: the next turn loads it again
            return []
        self.held.told(settled, told.late)
        if sources:
            self._idle, self.held.drains = not told.messages, told.alone > 0
        taken = [
            (str(tag), sources[number - 1], raw) for tag, (number, raw) in enumerate(told.messages, start=told.first)
        ]
        taken = [each for each in taken if each[0] not in disowned] if disowned else taken
        if taken and time.monotonic() - self._main.sent_at > LATE_S:
            claimed = self._claimed()
            taken = [each for each in taken if each[0] in claimed]
        for tag, _, raw in taken:
            self.held.take(tag, raw)
        if told.alone < 0 and taken:
            self.held.alone = taken[0][0]
        self._busy_since = min(self._busy_since, time.monotonic()) if len(self.held) else math.inf
        return taken

    def _claimed(self) -> set[str]:
        """Tags that this worker owns. Raises ConnectionError where that cannot be told: the next connection asks."""
        try:
            return {name.decode() for name in self._main.ask("HKEYS", self._claims)}
        except redis.ResponseError as error:
            self._main.break_off()
            raise redis.ConnectionError(f"what this worker owns cannot be told: {error}") from error

    def _drop_overdue(self) -> None:
        sent_before = time.monotonic() - OVERDUE_S
        for line in self._lines:
            if line.busy and line.sent_at < sent_before and line.overdue(OVERDUE_S):
                line.break_off()
                raise redis.ConnectionError(f"no reply of the broker within {OVERDUE_S} s")

    def _refused(self, error: redis.ResponseError) -> None:
        """The server answers, but not now: it is out of memory, cannot write, is busy. Nothing was done; ask again.

        Raises ConnectionError where another connection may lead to a server that does it.
        """
        if is_no_primary(error):
            self._main.break_off()
            raise redis.ConnectionError(f"the broker is not the primary any more: {error}") from error
        now = time.monotonic()
        self._rests_until = now + REST_S
        if now > self._silent_until:
            self._silent_until = now + SAY_S
            logger.warning("celeriac: Redis refuses to hand out messages, it is asked again each second: %s", error)
