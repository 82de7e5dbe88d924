"""The quarantine in Redis: thin calls of its scripts. Each raises one of BROKER_ERRORS when Redis is away or full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from resilience import lua
from resilience.audit import AUDIT_LENGTH, newest
from resilience.quarantine.place import Held, Place
from resilience.quarantine.record import Reason, Record, record_of, stored

VICTIMS_AT_ONCE = 100
PAGE = 200

_SCRIPTS = ("put.lua", "remove.lua", "replay.lua")


@dataclass(frozen=True)
class Limits:
    """How much is kept: messages, bytes of all together, seconds."""

    messages: int
    total_bytes: int
    age_s: float

    def arguments(self) -> list[int]:
        return [self.messages, self.total_bytes, round(self.age_s * 1000), VICTIMS_AT_ONCE]


@dataclass(frozen=True)
class Kept:
    """What came of `put`: the record's id, whether it is new, and the oldest for which there is no room any more."""

    id: str
    is_new: bool
    victims: list[Record]


class QuarantineStore:
    """All records of one namespace."""

    def __init__(self, held: Held, namespace: str) -> None:
        self._held = held
        prefix = f"{namespace}:v1:quarantine"
        self._names = [prefix, *(f"{prefix}:{part}" for part in ("records", "messages", "keys", "totals"))]
        self._audit = f"{prefix}:audit"
        self._sources = {name: lua.source(__package__, name) for name in _SCRIPTS}

    def put(self, record: Record, key: str, raw: bytes, limits: Limits) -> Kept:
        """Keep a message; the second time with the same `key`, only say where it is."""
        reply = self._run("put.lua", [], [key, record.reason, stored(record), raw, *limits.arguments()])
        return _kept(reply)

    def overdue(self, limits: Limits) -> list[Record]:
        """The oldest, as far as the limits have no room for them."""
        return _kept(self._run("put.lua", [], ["", "", "", b"", *limits.arguments()])).victims

    def remove(self, ids: Sequence[str], action: str, actor: str, reason: str) -> list[str]:
        """Remove for good, with an entry in the audit if somebody did it; the ids that were there."""
        found = self._run("remove.lua", [self._audit], [action, actor, reason, AUDIT_LENGTH, *ids])
        return [row.decode() for row in found]

    def replay(self, record_id: str, target: str, raw: bytes, actor: str, reason: str) -> int:
        """Move onto the list `target`, a whole key: 1 moved, 0 it was gone, -1 `target` is no list."""
        with self._held.use() as place:
            keys = [*(place.key(name) for name in (*self._names, self._audit)), target]
            script = place.client.register_script(self._sources["replay.lua"])
            return int(script(keys=keys, args=[record_id, raw, actor, reason, AUDIT_LENGTH]))

    def replaying(self, record_id: str, lease_ms: int) -> bool:
        """Whether this call alone may replay now, where it takes more than one step."""
        with self._held.use() as place:
            key = place.key(f"{self._names[0]}:replaying:{record_id}")
            return bool(place.client.set(key, 1, nx=True, px=lease_ms))

    def get(self, record_id: str) -> Record | None:
        with self._held.use() as place:
            _, records, raws, *_ = (place.key(name) for name in self._names)
            pipe = place.client.pipeline(transaction=True)
            pipe.hget(records, record_id)
            pipe.hget(raws, record_id)
            entry, raw = pipe.execute()
        return None if entry is None else record_of(record_id, entry, raw or b"")

    def describe(self, ids: Sequence[str]) -> dict[str, Record]:
        """What is known of those that are there."""
        with self._held.use() as place:
            entries = (
                cast("list[bytes | None]", place.client.hmget(place.key(self._names[1]), list(ids))) if ids else []
            )
        return {each: record_of(each, entry) for each, entry in zip(ids, entries, strict=True) if entry is not None}

    def newest_first(self, before: str | None) -> Iterator[Record]:
        """Every record with an id below `before`, a page per round trip."""
        while True:
            page = self._page(before)
            yield from page
            if len(page) < PAGE:
                return
            before = page[-1].id

    def totals(self) -> dict[str, int]:
        """`messages`, `bytes`, and the number of each reason that there is."""
        with self._held.use() as place:
            index, *_, totals = (place.key(name) for name in self._names)
            pipe = place.client.pipeline(transaction=True)
            pipe.zcard(index)
            pipe.hgetall(totals)
            count, rows = pipe.execute()
        counted = {name.decode(): int(value) for name, value in rows.items()}
        reasons = {reason.value: counted.get(f"reason:{reason.value}", 0) for reason in Reason}
        present = {name: number for name, number in reasons.items() if number > 0}
        return {"messages": int(count), "bytes": counted.get("bytes", 0), **present}

    def audit(self, count: int) -> list[dict[str, str]]:
        """What operators did, newest first, each with the stream id as `id`."""
        with self._held.use() as place:
            return newest(place.client, place.key(self._audit), count)

    def _page(self, before: str | None) -> list[Record]:
        youngest = "+inf" if before is None else f"({before}"
        with self._held.use() as place:
            index, records, *_ = (place.key(name) for name in self._names)
            ids = cast("list[bytes]", place.client.zrevrangebyscore(index, youngest, "-inf", start=0, num=PAGE))
            entries = cast("list[bytes | None]", place.client.hmget(records, ids)) if ids else []
        # one that was removed in between counts as a row of the page, so that the page is not taken for the last
        return [record_of(row.decode(), entry or b"") for row, entry in zip(ids, entries, strict=True)]

    def _run(self, file: str, more_keys: list[str], args: list[Any]) -> Any:
        with self._held.use() as place:
            keys = self._keys(place, more_keys)
            return place.client.register_script(self._sources[file])(keys=keys, args=args)

    def _keys(self, place: Place, more: list[str]) -> list[str]:
        return [place.key(name) for name in (*self._names, *more)]


def _kept(reply: Any) -> Kept:
    record_id, is_new, *victims = reply
    pairs = zip(victims[::2], victims[1::2], strict=True)
    return Kept(record_id.decode(), bool(is_new), [record_of(row.decode(), entry) for row, entry in pairs])
