"""`res.parked`: what waits for a circuit to let calls pass again, and what an operator does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from resilience.audit import AUDIT_LENGTH, newest, who_and_why
from resilience.breaker.orders import nearest
from resilience.delivery.broker import Broker
from resilience.quarantine.reading import Reading, read
from resilience.recovery.parking import Lot, Parking
from signals.bus import Bus
from signals.events import ParkedReleased
from signals.redact import redact

SHOWN_LIMIT = 1_000
RELEASE_LIMIT = 100_000
HOLDS = ("open", "forced_open", "half_open")
"""States of a circuit in which the workers park what is released at once again."""


class NothingParkedError(LookupError):
    """Nothing is parked under a name. The message is a sentence, with the name that was meant if one is near."""


@dataclass(frozen=True)
class Waiting:
    """How many messages of a circuit wait that belong on one queue, and the circuit's state."""

    lot: Lot
    messages: int
    state: str

    def to_json(self) -> dict[str, Any]:
        return {
            "circuit": self.lot.circuit, "home": self.lot.home, "messages": self.messages, "state": self.state,
            "queue": self.lot.queue,
        }  # fmt: skip

    def is_called(self, name: str) -> bool:
        return name in (self.lot.circuit, self.lot.home, self.lot.queue)


Waitings = list[Waiting]  # names for types, as `list` is a method below
Oldest = dict[Lot, list[Reading]]
Entries = list[dict[str, str]]


@dataclass
class Released:
    """What came of a release: messages that went home, and why the others stayed, by circuit."""

    moved: int = 0
    stayed: dict[str, str] = field(default_factory=dict)


class Parked:
    """One per app. Every method raises one of the broker's errors when its Redis is away.

    `state_of` tells the state of a circuit.
    """

    def __init__(
        self, namespace: str, parking: Parking, bus: Bus, open_broker: Callable[[], Broker],
        state_of: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._audit = f"{namespace}:v1:parked:audit"
        self._parking, self._bus, self._open, self._state_of = parking, bus, open_broker, state_of

    def list(self, name: str | None = None) -> Waitings:
        """What waits; with `name`, a circuit's or a queue's, only that. Raises NothingParkedError for such a name."""
        with self._broker() as broker:
            lots = {lot: sum(lengths.values()) for lot, lengths in self._parking.lots(broker).items()}
        found = [Waiting(lot, count, self._state_of(lot.circuit)) for lot, count in lots.items()]
        if name is None:
            return found
        meant = [waiting for waiting in found if waiting.is_called(name)]
        if not meant:
            raise NothingParkedError(_nobody(name, found))
        return meant

    def oldest(self, name: str, count: int = 20) -> Oldest:
        """The messages of a circuit or queue that wait longest, by lot; at most `count` (1 to 1000) of each.

        Secrets in their arguments are hidden.
        """
        if not 1 <= count <= SHOWN_LIMIT:
            raise ValueError(f"{count} messages cannot be shown: 1 to {SHOWN_LIMIT} can")
        lots = [waiting.lot for waiting in self.list(name)]
        with self._broker() as broker:
            return {lot: [_cleaned(read(raw)) for raw in self._parking.oldest(broker, lot, count)] for lot in lots}

    def release(
        self, name: str | None, *, actor: str, reason: str, count: int | None = None, force: bool = False
    ) -> Released:
        """Put messages in front of their home queues at once, in their order: the oldest `count` of each lot, or all.

        Without `name`, everything. What belongs to an open circuit stays, unless `force`: workers would park it again.
        Raises ValueError without an actor and a reason, and NothingParkedError.
        """
        who, why = who_and_why("release", actor, reason)
        if count is not None and not 1 <= count <= RELEASE_LIMIT:
            raise ValueError(f"{count} messages cannot be released: 1 to {RELEASE_LIMIT} can")
        outcome = Released()
        for waiting in self.list(name):
            lot = waiting.lot
            if waiting.state in HOLDS and not force:
                outcome.stayed[lot.circuit] = f"its circuit is {waiting.state}, so workers would park it again"
                continue
            with self._broker() as broker:
                self._note(broker, waiting, who, why)
                moved = self._parking.release_lot(broker, lot, count)
            outcome.moved += moved
            self._bus.publish(ParkedReleased(lot.circuit, lot.home, moved, who, why))
        return outcome

    def audit(self, count: int = 20) -> Entries:
        """What operators did, newest first, each with the stream id as `id`."""
        with self._broker() as broker:
            return newest(broker.client, broker.key(self._audit), count)

    def _note(self, broker: Broker, waiting: Waiting, who: str, why: str) -> None:
        """Before it is done: what was begun and cut off is in the audit, too."""
        lot = waiting.lot
        entry = {
            "action": "release", "circuit": lot.circuit, "home": lot.home, "waiting": waiting.messages, "actor": who,
            "reason": why,
        }  # fmt: skip
        broker.client.xadd(broker.key(self._audit), cast("Any", entry), maxlen=AUDIT_LENGTH, approximate=True)

    @contextmanager
    def _broker(self) -> Iterator[Broker]:
        broker = self._open()
        try:
            yield broker
        finally:
            broker.close()


def _cleaned(told: Reading) -> Reading:
    hops = tuple((origin, to, redact(why), level) for origin, to, why, level in told.hops)
    return replace(told, envelope=None, arguments=redact(told.arguments), hops=hops)


def _nobody(name: str, found: Waitings) -> str:
    known = sorted({name for waiting in found for name in (waiting.lot.circuit, waiting.lot.home)})
    if not known:
        return "nothing is parked"
    near = nearest(name, known)
    return f"nothing is parked for {name}: " + (
        f"did you mean {near}?" if near else f"there is {', '.join(known[:10])}"
    )
