"""How a channel comes to own messages, and what it makes of those that a former connection owned."""

from __future__ import annotations

import logging
import math
import threading
import uuid
from typing import Any

from resilience.delivery.envelope import OwnedMessage, redelivered
from resilience.delivery.held import Held
from resilience.delivery.holders import held_by
from resilience.delivery.lines import Line, Packed, Wake
from resilience.delivery.marks import Marker
from resilience.delivery.portions import Portions
from resilience.delivery.qos import OwnedQoS
from resilience.delivery.server import TOO_OLD, moves_messages
from resilience.delivery.settling import Settled
from resilience.delivery.waits import WAITED, IdleWaits

LEASE_S = 30.0
"""How long a new connection's claims are valid before the pulse must have said so."""

CONNECTION = "c"
"""The field of the claims that names the connection which may take messages."""

logger = logging.getLogger("celeriac")

_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types


class Owning(_Base):
    """A mix-in: whether this channel has an owner, and what it needs from then on."""

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
        self._main = Line(self, "TURN")
        self._waits = IdleWaits(self, self._claims, self._wait_key, self._on_wait)
        self._marker = Marker(self, self._prefixed(held.unbegun_key), held.to_mark)
        self.say_started = self._marker.say
        self._wake = Wake()
        self._woken = self._missed = self._lingers = False
        self._queues: dict[str, str] = {}
        self._calls: dict[tuple[str, ...], tuple[list[str], Packed]] = {}
        self.handlers.update(TURN=self._on_turn, WAKE=self._wake.heard)
        self._portions = Portions()
        self._sha = ""
        self._sent: tuple[Settled, list[str], bool] = (Settled(), [], False)
        self._asked, self._told_at = 0, 0.0
        self._lingers_until = 0.0
        self._idle = self._moved = False
        self._busy_since = math.inf
        held.drains = False
        self._looked_at = self._rests_until = self._silent_until = 0.0
        self._waited: set[str] = set()
        self._thread = threading.get_ident()
        self._marker.connect()
        if held.joined_by(self):
            self._recover()
        held.say_started = self._marker.say

    def _recover(self) -> None:
        """What a former connection left: claims whose delivery never arrived, and what is held but not run, go back."""
        held = self.held
        held.hears()
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
