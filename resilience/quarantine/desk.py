"""`res.quarantine`: what is there, and what an operator does with it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from resilience.audit import who_and_why
from resilience.delivery.broker import BROKER_ERRORS, Broker
from resilience.quarantine.place import Held, Place
from resilience.quarantine.reading import ReplayError, fresh, read
from resilience.quarantine.record import Arrival, Reason, Record, Selection, checked_id, cleaned
from resilience.quarantine.store import Limits, QuarantineStore
from signals.bus import Bus
from signals.events import MessageQuarantined, QuarantineDiscarded, QuarantineDropped, QuarantineReplayed
from signals.redact import describe, one_line

LIST_LIMIT = 1_000
IDS_LIMIT = 100_000
RATE_LIMIT = 10_000.0
REMOVED_AT_ONCE = 500
LEASE_MS = 60_000
QUEUE_LENGTH = 200

Ids = list[str]  # names for types, as `list` is a method below
Entries = list[dict[str, str]]
Records = list[Record]
Publish = Callable[[bytes, str], None]
"""Sends a message, as it lay in quarantine, to a queue of a broker that is not Redis; returns when it has it."""


@dataclass
class Replayed:
    """What came of a replay: the ids that moved, and why the others stayed."""

    moved: list[str] = field(default_factory=list)
    stayed: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return not self.stayed


class Quarantine:
    """One per app. Every method raises one of the broker's errors when its Redis is away, ValueError for a wrong word.

    `open_place` opens a client of the Redis that it lies in, and `publish` is needed where that is not the broker.
    """

    def __init__(
        self, namespace: str, limits: Limits, replays: int, bus: Bus, open_place: Callable[[], Place],
        publish: Publish | None = None,
    ) -> None:  # fmt: skip
        self._limits, self._replays, self._bus, self._publish = limits, replays, bus, publish
        self._held = Held(open_place)
        self._store = QuarantineStore(self._held, namespace)

    # -- arrivals ----------------------------------------------------------------------------------------------

    def put(self, arrival: Arrival) -> str:
        """Keep a message; returns its id in the quarantine. The same message put again keeps its first record."""
        reading = read(arrival.raw)
        record = cleaned(Record(
            id="", at=0.0, reason=Reason(arrival.reason).value, detail=arrival.detail, size_bytes=len(arrival.raw),
            task=reading.task, task_id=reading.task_id, queue=arrival.queue or self._queue_in(arrival.source),
            source=arrival.source, worker=arrival.worker, arguments=reading.arguments, retries=reading.retries,
            deaths=arrival.deaths or reading.deaths, replays=reading.replays, hops=[list(hop) for hop in reading.hops],
            error=arrival.error,
        ))  # fmt: skip
        kept = self._store.put(record, reading.key or _plain_key(arrival.key), arrival.raw, self._limits)
        if kept.is_new:
            self._bus.publish(MessageQuarantined(
                kept.id, record.task_id, record.task, record.reason, record.detail, record.queue, record.deaths,
                record.replays,
            ))  # fmt: skip
        self._drop(kept.victims)
        return kept.id

    def put_raw(
        self, source: str, raw: bytes, reason: Reason | str, detail: str, key: str, *, deaths: int = 0, worker: str = ""
    ) -> str:
        """Keep a message that lay in the list `source` (its whole Redis key), as its bytes are; returns its id.

        `key`, such as "owner:tag", makes it harmless to put bytes again that no longer say what message they are.
        """
        return self.put(Arrival(raw, Reason(reason), detail, source, key=key, deaths=deaths, worker=worker))

    def tend(self) -> int:
        """Drop what is older than it may be, or too much; each is told about before. Returns how many."""
        return self._drop(self._store.overdue(self._limits))

    def _drop(self, victims: Records) -> int:
        limits = self._limits
        for record in victims:
            old = time.time() - record.at > limits.age_s
            limit = f"older than {limits.age_s:g} s" if old else (
                f"more than {limits.messages} messages or {limits.total_bytes} bytes are there"
            )  # fmt: skip
            self._bus.publish(
                QuarantineDropped(record.id, record.task_id, record.task, record.reason, limit, record.size_bytes)
            )
        if victims:
            self._store.remove([record.id for record in victims], "drop", "", "")
        return len(victims)

    # -- looking -----------------------------------------------------------------------------------------------

    def list(
        self, limit: int = 50, *, before: str | None = None, because: str | None = None, task: str | None = None,
        queue: str | None = None,
    ) -> Records:  # fmt: skip
        """The newest records first, at most `limit` (1 to 1000), those before the id `before`, and only those meant."""
        if not 1 <= limit <= LIST_LIMIT:
            raise ValueError(f"a list of {limit} records is not possible: 1 to {LIST_LIMIT} are")
        selection = Selection(because, task, queue)
        return [*islice(self._chosen(selection, before and checked_id(before)), limit)]

    def show(self, record_id: str) -> Record | None:
        """One record with the message's bytes; None when it is not there (any more)."""
        return self._store.get(checked_id(record_id))

    def count(self) -> dict[str, int]:
        """`messages`, `bytes`, and how many there are of each reason."""
        return self._store.totals()

    def audit(self, count: int = 20) -> Entries:
        """What operators did, newest first."""
        return self._store.audit(count)

    def chosen(self, selection: Selection) -> Ids:
        """The ids of all that are meant, oldest first: the order in which they came."""
        return [record.id for record in self._chosen(selection, None)][::-1]

    def _chosen(self, selection: Selection, before: str | None) -> Iterator[Record]:
        return (record for record in self._store.newest_first(before) if record in selection)

    # -- acting ------------------------------------------------------------------------------------------------

    def replay(
        self, ids: Iterable[str] | Selection, *, actor: str, reason: str, rate_per_s: float = 50.0,
        to: str | None = None, force: bool = False, on_each: Callable[[str], object] = lambda _id: None,
    ) -> Replayed:  # fmt: skip
        """Put messages back at the end of the queue that they came from, or of the queue `to`, oldest first.

        On a Redis broker a message leaves the quarantine and enters the queue in one step. At most `rate_per_s` of
        them go per second. One that was replayed as often as the settings allow, that expired, or that no worker
        could read stays, unless `force`. `on_each` hears every id that was dealt with. What cannot go stays, and
        the reply says why.
        """
        actor, reason = who_and_why("replay", actor, reason)
        if not 0 < rate_per_s <= RATE_LIMIT:
            raise ValueError(
                f"{rate_per_s:g} messages per second are not possible: above 0 and up to {RATE_LIMIT:g} are"
            )
        if to is not None and (not to or len(to) > QUEUE_LENGTH or not to.isprintable()):
            raise ValueError(f"{one_line(repr(to), 60)} is no usable name of a queue")
        outcome, began = Replayed(), time.monotonic()
        for number, record_id in enumerate(self._ids(ids)):
            time.sleep(max(0.0, began + number / rate_per_s - time.monotonic()))
            why = self._replay_one(record_id, to, force, actor, reason)
            if why:
                outcome.stayed[record_id] = why
            else:
                outcome.moved.append(record_id)
            on_each(record_id)
        return outcome

    def discard(self, ids: Iterable[str] | Selection, *, actor: str, reason: str) -> Ids:
        """Remove messages for good; returns the ids that were there."""
        actor, reason = who_and_why("discard", actor, reason)
        wanted, found = self._ids(ids), []
        for first in range(0, len(wanted), REMOVED_AT_ONCE):
            batch = wanted[first : first + REMOVED_AT_ONCE]
            known = self._store.describe(batch)
            removed = self._store.remove(batch, "discard", actor, reason)
            found += removed
            for record in (known[record_id] for record_id in removed if record_id in known):
                self._bus.publish(
                    QuarantineDiscarded(record.id, record.task_id, record.task, record.reason, actor, reason)
                )
        return found

    def close(self) -> None:
        """Close its connections; the next call opens them again."""
        self._held.close()

    def _ids(self, ids: Iterable[str] | Selection) -> Ids:
        if isinstance(ids, Selection):
            return self.chosen(ids)
        if isinstance(ids, str):
            ids = [ids]
        wanted = [*dict.fromkeys(checked_id(each) for each in islice(ids, IDS_LIMIT + 1))]
        if len(wanted) > IDS_LIMIT:
            raise ValueError(f"more than {IDS_LIMIT} ids at once are not possible")
        return wanted

    def _replay_one(self, record_id: str, to: str | None, force: bool, actor: str, reason: str) -> str:
        """Why it stayed; "" when it went."""
        record = self._store.get(record_id)
        if record is None or record.raw is None:
            return "it is not in quarantine any more"
        if record.replays >= self._replays and not force:
            return f"it was replayed {record.replays} times already; with force it goes once more"
        reading = read(record.raw)
        queue = to or reading.home or record.queue
        if not queue:
            return "the queue that it came from is not known: name one"
        try:
            raw = fresh(record.raw, queue, str(uuid.uuid4()), time.time(), force)
            why = self._move(record, queue, reading.priority, raw, actor, reason)
        except ReplayError as error:
            return str(error)
        if not why:
            self._bus.publish(
                QuarantineReplayed(record.id, record.task_id, record.task, record.reason, queue, actor, reason)
            )
        return why

    def _move(self, record: Record, queue: str, priority: int, raw: bytes, actor: str, reason: str) -> str:
        if self._publish is None:
            with self._held.use() as place:
                broker = _broker(place)
                target = broker.key(broker.list_of(queue, priority))
            moved = self._store.replay(record.id, target, raw, actor, reason)
            return {1: "", 0: "it is not in quarantine any more"}.get(moved, f"{queue} is no queue: its key is no list")
        if not self._store.replaying(record.id, LEASE_MS):
            return "somebody else replays it now"
        try:
            self._publish(raw, queue)
        except BROKER_ERRORS as error:
            return f"the broker did not take it: {describe(error)}"
        self._store.remove([record.id], "replay", actor, reason)
        return ""

    def _queue_in(self, source: str) -> str:
        """The queue whose list has the whole key `source`."""
        if not source or self._publish is not None:
            return ""
        with self._held.use() as place:
            return _broker(place).queue_in(source)


def _broker(place: Place) -> Broker:
    assert isinstance(place, Broker)
    return place


def _plain_key(key: str) -> str:
    """Without what the record's first line is divided by."""
    return "".join("_" if letter.isspace() else letter for letter in key)[:300]
