"""All that `circuit.lua` leaves behind after an operation, compared with what it should have left by the model.

Its reply is compared by the test itself. Here: every field of the circuit's hash, the permits, the row of the index,
the version, what was published, how long keys live, and the audit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import redis

from resilience.breaker.machine import FORCED, Circuit
from resilience.breaker.store import NO_END, Order
from resilience.breaker.window import Ring

KEEP_MS = 7 * 86_400_000
SLACK_MS = 60_000
"""A key that was told to live so long less than `KEEP_MS` was told another time."""

_SO_FAR = "-- so far --"


@dataclass
class Fields:
    """The circuit's hash as text; what a fresh circuit leaves out has the value that it is read as."""

    state: str
    epoch: str
    until: str = "0"
    opens: str = "0"
    streak: str = "0"
    streak_worker: str = ""
    streak_shared: str = "0"
    feeder: str = ""
    shared_until: str = "0"
    passed: str = "0"
    window: Ring = field(default_factory=Ring)
    calls: str = ""
    reason: str = ""
    changed: str = "0"
    policy: str = ""

    @classmethod
    def of(cls, circuit: Circuit, reason: str, policy: str) -> Fields:
        return cls(
            state=circuit.state.value, epoch=str(circuit.epoch), until=str(circuit.until_ms), opens=str(circuit.opens),
            streak=str(circuit.streak), streak_worker=circuit.streak_worker,
            streak_shared=str(int(circuit.streak_shared)), feeder=circuit.feeder,
            shared_until=str(circuit.shared_until_ms), passed=str(circuit.probes_passed), window=circuit.ring,
            calls=circuit.calls, reason=reason, changed=str(circuit.changed_ms), policy=policy,
        )  # fmt: skip

    @classmethod
    def read(cls, row: dict[str, str]) -> Fields:
        """Raises TypeError for a field that nobody knows."""
        window = Ring.read(row.pop("window", ""))
        return cls(**row, window=window)


class Ledger:
    """Follows one circuit of an empty Redis, operation by operation."""

    def __init__(self, client: redis.Redis, namespace: str, name: str) -> None:
        self._client, self._name, self._prefix = client, name, f"{namespace}:v1"
        self._subscription = client.pubsub()
        self._channel = f"{self._prefix}:circuits"
        self._subscription.subscribe(self._channel)
        self._news: list[str] = []
        self._reason = ""
        self._version: int | None = None
        self._orders = 0
        self._newest: list[dict[str, str]] = []
        self._index: dict[str, str] = {}
        self._last: Circuit | None = None
        self.there = False
        """Whether Redis holds the circuit."""

    @property
    def listed(self) -> bool:
        return bool(self._index)

    def close(self) -> None:
        self._subscription.close()

    def forget(self) -> None:
        """The circuit's keys expire, as after a week, or are evicted; the next operation will find nothing."""
        self._client.delete(f"{self._prefix}:circuit:{self._name}", f"{self._prefix}:permits:{self._name}")
        self.there = False

    def forget_index(self) -> None:
        """The index is evicted, and nothing else."""
        self._client.delete(f"{self._prefix}:circuits")
        self._index = {}

    def operated(self, before: Circuit, after: Circuit, reason: str, now_ms: int, lists: bool) -> None:
        """An operation made `after` of `before`; `reason` is why, if the epoch rose. `lists`: it minds the index."""
        if self._version is None:
            self._version = now_ms
        if not self.there:
            self._reason = ""
            if self.listed and before.state not in FORCED:
                self._version += 1
                self._news.append(f"{self._name} closed {before.epoch} {NO_END}")
        if after.epoch != before.epoch:
            self._reason = reason
            self._version += 1
            remaining_ms = max(0, after.until_ms - now_ms) if after.until_ms else NO_END
            self._news.append(f"{self._name} {after.state.value} {after.epoch} {remaining_ms}")
        set_back = self._last is not None and self._last.changed_ms > now_ms
        if self.listed or lists or not self.there or set_back or after.epoch != before.epoch:
            self._index = {self._name: f"{after.state.value} {after.epoch} {after.until_ms} {after.changed_ms}"}
        self.there, self._last = True, after

    def ordered(self, order: Order, ttl_ms: int, circuit: Circuit, done: bool) -> None:
        """An operator's word belongs into the audit, obeyed or not."""
        self._orders += 1
        self._newest = [
            {
                "action": order.action.value, "circuit": self._name, "actor": order.actor, "reason": order.reason,
                "ttl_s": f"{ttl_ms / 1000:.14g}" if ttl_ms else "", "epoch": str(circuit.epoch),
                "state": circuit.state.value, "done": "true" if done else "false",
            }
        ]  # fmt: skip

    def check(self, circuit: Circuit, policy: str, now_ms: int) -> None:
        """Raises AssertionError for anything that is not as the model has it."""
        key, permits = f"{self._prefix}:circuit:{self._name}", f"{self._prefix}:permits:{self._name}"
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(key)
        pipe.pttl(key)
        pipe.zrange(permits, 0, -1, withscores=True)
        pipe.pttl(permits)
        pipe.hgetall(f"{self._prefix}:circuits")
        pipe.get(f"{self._prefix}:circuits:version")
        pipe.xlen(f"{self._prefix}:audit")
        pipe.xrevrange(f"{self._prefix}:audit", count=1)
        pipe.keys("*")
        pipe.publish(self._channel, _SO_FAR)
        row, lives_ms, held, held_live_ms, index, version, orders, newest, keys, _ = pipe.execute()

        assert index == self._index
        if not self.there:
            assert (row, held) == ({}, []), "who was refused creates nothing"
        else:
            assert asdict(Fields.read(row)) == asdict(Fields.of(circuit, self._reason, policy))
            assert {name: int(expiry) for name, expiry in held} == dict(circuit.permits)
        assert (None if version is None else int(version)) == self._version
        assert self._heard() == self._news
        assert orders == self._orders
        assert [fields for _, fields in newest] == self._newest

        if not self.there:
            assert lives_ms == -2
        elif circuit.state in FORCED:
            assert lives_ms == -1, "a forced state is not forgotten for being quiet"
        else:
            lasts_ms = max(0, circuit.until_ms - now_ms)
            assert lasts_ms + KEEP_MS - SLACK_MS < lives_ms <= lasts_ms + KEEP_MS
        assert not held or KEEP_MS - SLACK_MS < held_live_ms <= KEEP_MS
        ours = {key, permits, f"{self._prefix}:circuits", f"{self._prefix}:circuits:version", f"{self._prefix}:audit"}
        assert set(keys) <= ours
        self._news = []

    def _heard(self) -> list[str]:
        """What was published up to now: messages of one channel arrive in order, and the last one is ours."""
        heard: list[str] = []
        while True:
            message = self._subscription.get_message(timeout=5.0)
            assert message is not None, "the server does not answer"
            if message["data"] == _SO_FAR:
                return heard
            if message["type"] == "message":
                heard.append(str(message["data"]))
