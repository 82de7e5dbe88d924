"""A Redis channel whose messages have an owner: taken and settled in one atomic step per turn of the worker's loop.

Only the connection that a worker consumes with has an owner (transport option `celeriac_owner`); any other channel,
of a publisher, of Flower, of a stock consumer in somebody's script, is kombu's own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection
from itertools import chain
from queue import Empty
from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from resilience import lua
from resilience.delivery.backlog import KnowsDelayed
from resilience.delivery.envelope import ENTRY, OwnedMessage, UnreadableError, read, redelivered
from resilience.delivery.held import Held, Settled, held_by
from resilience.delivery.lines import CLOSING_S, GONE, Line, Marker, Packed, Wake
from resilience.delivery.poller import OwnedPoller
from resilience.delivery.puts import Puts
from resilience.delivery.qos import OwnedQoS
from resilience.delivery.refusals import Knocks, is_no_primary
from resilience.delivery.server import TOO_OLD, moves_messages
from resilience.delivery.waits import WAITED, IdleWaits

BATCH = 100
"""Messages taken at once by a worker without a prefetch limit."""

UNTOLD_S = 0.05
"""How long what ended waits while the loop stands still: a kill meanwhile has it run again."""

OVERDUE_S = 7
"""A reply that is so late comes from a connection that is gone: within 10 s the worker is to work on another one."""

LOOK_S = 5.0
"""How often a worker looks for what moved while it waited over a connection whose end nobody told the server."""

LINGER_S = 0.002
"""A worker with enough to do tells what ended so much later than it could, together with what ends meanwhile."""

REST_S = 1.0
"""A server that refuses a turn, because it is full or cannot write, is asked again so much later."""

SAY_S = 60.0
"""A refusal is told in the log, and again when it lasts so long."""

LEASE_S = 30.0
"""How long a new connection's claims are valid before the pulse must have said so."""

BUSY_S = 5.0
"""A worker that held something for so long without a pause offers to make room for a message that must run alone."""

CONNECTION = "c"
"""The field of the claims that names the connection which may take messages."""

_TURN = lua.source(__package__, "turn.lua")

logger = logging.getLogger("celeriac")


_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types


class OwnedTurns(_Base):
    """What a channel with an owner does; mixed into kombu's plain and Sentinel channels."""

    owned = False
    held: Held
    celeriac_owner = ""

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """The first queue that is no fan-out makes this a channel with an owner, in a worker's main process."""
        if not self.owned and self.celeriac_owner and queue not in self._fanout_queues:
            held = held_by(self.celeriac_owner)
            if held is not None and self._may_own(held):
                self._own(held)
        tag = super().basic_consume(queue, *args, **kwargs)
        self._name_sources()
        return tag

    def _may_own(self, held: Held) -> bool:
        able = moves_messages(self._plain_client(), self._prefixed(held.wait_key("")))
        if not able and not held.declined:
            held.declined = True  # said once
            logger.warning(TOO_OLD)
        return able

    def basic_cancel(self, consumer_tag: str) -> Any:
        """A queue is consumed no more."""
        cancelled = super().basic_cancel(consumer_tag)
        self._name_sources()
        return cancelled

    def _name_sources(self) -> None:
        if self.owned:
            queues, steps = list(self.active_queues), self.priority_steps
            self.held.sources = [self._prefixed(self._q_for_pri(queue, step)) for queue in queues for step in steps]

    def _own(self, held: Held) -> None:
        self.owned, self.held = True, held
        self.Message = OwnedMessage
        self._qos = OwnedQoS(self, self.qos)
        self._claims = self._prefixed(held.claims_key)
        self._keys = [self._prefixed(key) for key in held.turn_keys]
        self._started = self._prefixed(held.started_key)
        self._main = Line(self, "TURN")
        self._waits = IdleWaits(self, self._claims, self._wait_key, self._on_wait)
        self._marker = Marker(self)
        self._wake = Wake()
        self._woken = self._lingers = False
        self._mark = Packed("SADD", self._started)
        self._calls: dict[tuple[str, ...], tuple[list[str], Packed]] = {}
        self.handlers.update(TURN=self._on_turn, WAKE=self._wake.heard)
        self._sha = ""
        self._sent: tuple[Settled, list[str], bool] = (Settled(), [], False)
        self._idle = self._moved = False
        self._busy_since = math.inf
        held.drains = False
        self._looked_at = self._rests_until = self._silent_until = 0.0
        self._waited: set[str] = set()
        self._thread = threading.get_ident()
        self._marker.connect()
        if held.joined_by(self):
            self._recover()
        held.say_started = self.say_started

    def _recover(self) -> None:
        """What a former connection left: claims whose delivery never arrived, and what is held but not run, go back."""
        held = self.held
        held.renewed(LEASE_S)  # the claims are read below: what was taken away meanwhile is known then
        held.connection = uuid.uuid4().hex[:8]
        self._main.ask("HSET", self._claims, CONNECTION, held.connection)  # before: none takes anything after the look
        fields = {name.decode() for name in self._main.ask("HKEYS", self._claims)}
        known = {name for name in fields if name.isdigit()}
        self._waited = {name.removeprefix(WAITED) for name in fields if name.startswith(WAITED)}
        self._moved = bool(self._waited)  # a message may have moved for a connection that was gone
        held.drop_all_but(known)
        held.give_back_idle(redelivered)
        for tag in sorted(known.difference(held.tags(), held.settling()), key=int):
            held.give_back_unknown(tag)

    @property
    def _lines(self) -> list[Line]:
        return [self._main, *self._waits.lines]

    def _wait_key(self, source: str) -> str:
        return str(self._prefixed(self.held.wait_key(source)))

    # -- a turn ------------------------------------------------------------------------------------------------

    def turn(self, poller: OwnedPoller) -> None:
        """Tell what ended and ask for what there is room for; or, when there was nothing, wait for it."""
        self._thread = threading.get_ident()
        self._woken = self._lingers = False  # before it is asked what there is to tell
        poller.attach(self, self._wake)
        self._drop_overdue()
        self._obey()
        if self._main.busy or time.monotonic() < self._rests_until:
            self.say_started()
            return
        try:
            self._take_turn(poller)
        except redis.ResponseError as error:
            self._refused(error)

    def _obey(self) -> None:
        """Raises ConnectionError when this worker shall connect anew."""
        why, self.held.reconnect_why = self.held.reconnect_why, ""
        if why:
            raise redis.ConnectionError(f"this worker connects anew: {why}")
        if self.held.lapsed:
            raise redis.ConnectionError("the lease of this worker lapsed: it drops what it has not begun")

    def _take_turn(self, poller: OwnedPoller) -> None:
        if time.monotonic() - self._looked_at > LOOK_S:
            self._moved = True
        room = self._room()
        if self._idle and not self.held.waits_to_be_told and not self._moved:
            if room:
                self._waits.begin(self.held.sources, poller)
            return
        if self._has_time(room) and poller.turn_within(self._main.sent_at + LINGER_S - time.monotonic()):
            self._lingers = True
            self.say_started()
        elif room or self._moved or self.held.waits_to_be_told:
            self._send(room)
            poller.attach(self, self._main)

    def _has_time(self, room: int) -> bool:
        """Whether a turn may wait for more to tell: the last one was a moment ago, and there is enough to do."""
        if self._moved or time.monotonic() - self._main.sent_at > LINGER_S:
            return False
        return not room or self._has_enough

    @property
    def _has_enough(self) -> bool:
        """Whether more than half the window is full. A worker without a window asks when it holds nothing."""
        window = self.qos.prefetch_count
        return len(self.held) * 2 > window if window else bool(len(self.held))

    def say_started(self) -> None:
        """Mark what began before it can do harm, when no turn can carry the marks; from any thread."""
        self._marker.say(self._marks)

    def _marks(self) -> bytes:
        tags = self.held.unmarked()
        return self._mark.with_words(*tags) if tags else b""

    def _send(self, room: int) -> None:
        settled, started = self.held.settle(), self.held.unmarked()
        if self._moved:
            self._looked_at = time.monotonic()
        queues = tuple(self._queue_cycle.consume(len(self.active_queues))) if room else ()
        waited = self._waited | self._waits.sources if self._moved else ()
        sources, call = self._call(queues, waited)
        self._sent = (settled, sources, self._moved)
        self._moved = False  # what moves from now on is for the next turn
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
        if not len(self.held):
            return "empty"
        return "drain" if time.monotonic() - self._busy_since > BUSY_S else ""

    def _on_turn(self) -> bool:
        """The reply to a turn: deliver what was taken."""
        try:
            taken = self._reply()
        except redis.ResponseError as error:
            self._refused(error)
            taken = []
        if not taken:
            raise Empty
        if self.held.blocks:
            self._stop_waiting()  # nothing must arrive while the loop stands still
        unwanted = []
        for tag, source, raw in taken:
            if self._queue_of(source) not in self._active_queues:
                unwanted.append(tag)  # a signal came: the worker consumes no more
            elif self.held.begin(tag):  # else it went back while the worker was inside the one before it
                self._deliver(tag, source, raw)
                self._tell_in_between()
        for tag in reversed(unwanted):
            self.held.give_back(tag, redelivered)
        return True

    def _tell_in_between(self) -> None:
        """A solo worker runs all that it took in one turn: what ended must not wait for the last of them."""
        if self.held.blocks and self.held.waits_to_be_told and time.monotonic() - self._main.sent_at > UNTOLD_S:
            try:
                self._send(room=0)
                self._reply()
            except redis.ResponseError as error:
                self._refused(error)

    def _reply(self) -> list[tuple[str, str, bytes]]:
        settled, sources, moved = self._sent
        try:
            late, first, numbers, alone, *messages = self._main.read()
        except redis.ResponseError as error:
            self._moved = self._moved or moved
            if not isinstance(error, redis.exceptions.NoScriptError):
                raise
            self._sha = ""  # somebody flushed the scripts: the next turn loads it again
            return []
        self.held.told(settled, late)
        if sources:
            self._idle, self.held.drains = not messages, alone > 0
        found = zip((sources[int(number) - 1] for number in numbers.split()), messages, strict=True)
        taken = [(str(tag), source, raw) for tag, (source, raw) in enumerate(found, start=int(first or 0))]
        for tag, _, raw in taken:
            self.held.take(tag, raw)
        if alone < 0:
            self.held.alone = taken[0][0]
        self._busy_since = min(self._busy_since, time.monotonic()) if len(self.held) else math.inf
        return taken

    def _queue_of(self, source: str) -> str:
        return str(source[len(self.global_keyprefix) :].rsplit(self.sep, 1)[0])

    def _deliver(self, tag: str, source: str, raw: bytes) -> None:
        queue = self._queue_of(source)
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

    def _room(self) -> int:
        held = self.held
        if not self.active_queues or not self.qos.can_consume():
            return 0
        if len(held) and held.keeps_to_itself:
            return 0
        room = self.qos.can_consume_max_estimate()
        if self.qos.asks is not None:
            return 1  # it wants to be asked before every message
        return BATCH if room is None else min(int(room), BATCH)

    # -- idle --------------------------------------------------------------------------------------------------

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

    def _drop_overdue(self) -> None:
        for line in self._lines:
            if line.overdue(OVERDUE_S):
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

    # -- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what does not run, and tell what ended. A connection that broke leaves that to the next one."""
        if self.owned and not self.closed:
            if not any(line.broken for line in self._lines):
                self._settle_up(self._leave)
            self._let_go()
        super().close()

    def _basic_cancel(self, consumer_tag: str) -> Any:
        answer = super()._basic_cancel(consumer_tag)
        if self.owned and self.held.stopping and not self.active_queues:
            self._settle_up(self._hand_back)
        return answer

    def _leave(self) -> None:
        if self.held.left_by(self) and not self.held.lapsed:
            self.held.give_back_idle(redelivered)

    def _hand_back(self) -> None:
        """The worker stops, and what it runs may take an hour: what it will not run is for others at once."""
        if self.held.begins_on_accept:
            self.held.give_back_behind(redelivered)  # such a pool runs what it was given, as under stock transport
        else:
            self.held.give_back_idle(redelivered)

    def _settle_up(self, give_back: Callable[[], None]) -> None:
        try:
            for line in self._lines:
                line.bound(CLOSING_S)
            if self._main.busy:
                self._reply()
            self._stop_waiting()
            give_back()
            while self.held.unsettled:
                self._send(room=0)
                self._reply()
        except (*GONE, redis.ResponseError) as error:
            logger.debug("celeriac: a broken connection left its last turn to the next one: %s", error)

    def _let_go(self) -> None:
        self.held.left_by(self)
        for line in self._lines:
            line.close()
        self._marker.close()
        self._wake.close()

    # -- other threads -----------------------------------------------------------------------------------------

    def wake_if_elsewhere(self) -> None:
        if threading.get_ident() == self._thread or self._woken or self._main.busy:
            return  # a turn follows anyway, and tells what was noted before this was asked
        if self._lingers and self._has_enough:
            return
        self._woken = True
        self._wake()


class OwnedChannel(Knocks, OwnedTurns, KnowsDelayed, Puts, kombu_redis.Channel):
    """redis:// and rediss://."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "celeriac_owner")


class OwnedSentinelChannel(Knocks, OwnedTurns, KnowsDelayed, Puts, kombu_redis.SentinelChannel):
    """sentinel://."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "celeriac_owner")
