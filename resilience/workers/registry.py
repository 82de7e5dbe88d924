"""The workers that beat, and what is known of each; in the broker's database, beside the messages they hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from resilience import lua

if TYPE_CHECKING:
    from resilience.delivery.broker import Broker

INFO_TTL_S = 86_400
LOCK_MS = 10_000
DEGRADED_AFTER = 1
UNHEALTHY_AFTER = 3


@dataclass(frozen=True)
class WorkerInfo:
    """One live worker. `beat_age_s` since its last pulse; `missed` health checks in a row; `health` in words.

    `out_of_rotation`: why it takes no tasks, "" when it does. `degraded`: why it takes fewer than it could.
    """

    owner: str
    hostname: str
    pid: int
    queues: tuple[str, ...]
    pool: str
    concurrency: int
    started_at: float
    beat_age_s: float
    missed: int
    checked_s_ago: float | None
    stalled: bool = False
    out_of_rotation: str = ""
    degraded: str = ""

    @property
    def health(self) -> str:
        if self.stalled or self.out_of_rotation:
            return "unhealthy"
        if self.degraded:
            return "unhealthy" if self.missed >= UNHEALTHY_AFTER else "degraded"
        if self.checked_s_ago is None:
            return "unknown"
        if self.missed >= UNHEALTHY_AFTER:
            return "unhealthy"
        return "degraded" if self.missed >= DEGRADED_AFTER else "healthy"


@dataclass(frozen=True)
class Beat:
    """What a beat learned: `forgotten`, others took this worker for dead meanwhile; `suspects`, who seems dead.

    `look_in_s`: so soon somebody whose connection is gone will seem dead, unless he beats; None for nobody.
    """

    forgotten: bool
    suspects: list[str]
    look_in_s: float | None


@dataclass(frozen=True)
class Estate:
    """A dead worker: what its last beat said that it `running` (see `running.py`), and whether it was being stopped."""

    running: str
    stopping: bool


class Registry:
    """Who beats. Times are the server's."""

    def __init__(self, broker: Broker, namespace: str) -> None:
        self._broker = broker
        self._client = broker.client
        self._prefix = broker.key(f"{namespace}:v1")
        self._beats, self._seen, self._grace = (
            f"{self._prefix}:workers", f"{self._prefix}:workers:seen", f"{self._prefix}:workers:grace",
        )  # fmt: skip
        self._pulse = broker.script(lua.source(__package__, "pulse.lua"))
        self._condemn = broker.script(lua.source(__package__, "condemn.lua"))

    def channel(self, owner: str) -> str:
        """A worker stays subscribed here as long as its process lives."""
        return f"{self._prefix}:alive:{owner}"

    def beat(
        self, owner: str, gone_s: float, silent_s: float, reconnected: bool, running: str = "", known: bool = False
    ) -> Beat:
        """Renew `owner` and look who seems dead: late and without a connection, or long silent with one.

        `running` is what it runs now (see `running.py`), "" if that is as at its last beat; `known`: it beat before.
        """
        forgotten, look_in_ms, *rows = self._pulse(
            keys=[self._beats, self._seen, self._grace, self._info(owner)],
            args=[
                owner, _ms(gone_s), _ms(silent_s), self.channel(""), int(reconnected), INFO_TTL_S * 1000, running,
                int(known),
            ],
        )  # fmt: skip
        suspects = [row.decode() for row in cast("list[bytes]", rows)]
        return Beat(bool(forgotten), suspects, int(look_in_ms) / 1000 or None)

    def condemn(self, suspect: str, judge: str, gone_s: float, silent_s: float) -> Estate | None:
        """Look again; unless None, `judge` alone may take what `suspect` held: for 10 s, or until it dies in turn."""
        keys = [self._beats, self._grace, f"{self._prefix}:condemned:{suspect}", self._info(suspect)]
        args = [suspect, judge, _ms(gone_s), _ms(silent_s), self.channel(""), LOCK_MS]
        dead, running, stopping = cast("tuple[int, bytes, int]", self._condemn(keys=keys, args=args))
        return Estate(running.decode(errors="replace"), bool(stopping)) if dead else None

    def remove(self, owner: str) -> None:
        """Forget a worker that left, or that died and holds nothing any more."""
        pipe = self._client.pipeline(transaction=True)
        pipe.zrem(self._beats, owner)
        pipe.delete(self._info(owner), f"{self._prefix}:condemned:{owner}")
        pipe.execute()

    def describe_self(self, owner: str, info: dict[str, Any]) -> None:
        """Write what others may know of this worker."""
        self._client.hset(self._info(owner), mapping={key: json.dumps(value) for key, value in info.items()})

    def live(self) -> list[WorkerInfo]:
        """Every worker in the registry, by name."""
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(self._beats, 0, -1, withscores=True)
        (seconds, micros), beats = pipe.execute()
        now = int(seconds) + int(micros) / 1e6
        pipe = self._client.pipeline(transaction=False)
        for owner, _ in beats:
            pipe.hgetall(self._info(owner.decode()))
        found = [
            _worker(owner.decode(), now - float(beat_ms) / 1000, now, row)
            for (owner, beat_ms), row in zip(beats, pipe.execute(), strict=True)
        ]
        return sorted(found, key=lambda worker: worker.hostname)

    def alive(self, owners: Iterable[str], gone_s: float, silent_s: float) -> set[str]:
        """Those of `owners` that beat lately, or are connected and not silent for long; registered or not."""
        asked = sorted(owners)
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.pubsub_numsub(*(self.channel(owner) for owner in asked))
        for owner in asked:
            pipe.zscore(self._beats, owner)
        (seconds, micros), connections, *beats = pipe.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return {
            owner
            for owner, (_, connected), beat in zip(asked, connections, beats, strict=True)
            if now_ms - float(beat or now_ms) < _ms(silent_s if connected else gone_s) and (connected or beat)
        }

    def count(self) -> int:
        """How many workers beat."""
        return int(self._client.zcard(self._beats))

    def check_sent(self, worker: WorkerInfo, timeout_s: float) -> int:
        """Note that a health check goes out; returns how many in a row went unanswered before it."""
        key = self._info(worker.owner)
        sent, answered, missed = cast("list[bytes | None]", self._client.hmget(key, "sent", "answered", "missed"))
        now = time.time()
        unanswered = sent is not None and float(answered or 0) < float(sent) and now - float(sent) > timeout_s
        count = int(missed or 0) + 1 if unanswered else int(missed or 0)
        self._client.hset(key, mapping={"sent": now, "missed": count})
        return count

    def check_answered(self, owner: str) -> None:
        """This worker's main process answered."""
        self._client.hset(self._info(owner), mapping={"answered": time.time(), "missed": 0})

    def missed_checks(self, owner: str) -> int:
        """How many health checks in a row this worker missed."""
        return int(cast("bytes | None", self._client.hget(self._info(owner), "missed")) or 0)

    def _info(self, owner: str) -> str:
        return f"{self._prefix}:worker:{owner}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _worker(owner: str, beat_age_s: float, now: float, row: dict[bytes, bytes]) -> WorkerInfo:
    def value(name: str, default: Any) -> Any:
        raw = row.get(name.encode())
        return default if raw is None else json.loads(raw)

    answered = value("answered", None)
    return WorkerInfo(
        owner=owner,
        hostname=value("hostname", owner),
        pid=value("pid", 0),
        queues=tuple(value("queues", [])),
        pool=value("pool", "?"),
        concurrency=value("concurrency", 0),
        started_at=value("started_at", 0.0),
        beat_age_s=max(0.0, beat_age_s),
        missed=value("missed", 0),
        checked_s_ago=None if answered is None else max(0.0, now - float(answered)),
        stalled=value("stalled", False),
        out_of_rotation=value("out_of_rotation", ""),
        degraded=value("degraded", ""),
    )
