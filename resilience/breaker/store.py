"""Circuits in Redis: thin calls of `circuit.lua`, the index that views are fed from, the audit stream.

Every method is one round trip, raises `redis.RedisError` or `OSError` when Redis is away, and never retries.
"""

from __future__ import annotations

# A process's first connection imports these two; a fork in the middle of that would lock the child out for ever.
import email.parser  # noqa: F401  for its presence alone
import encodings.idna  # noqa: F401  the same
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilience import lua
from resilience.breaker.machine import Outcome, State
from resilience.breaker.policy import BreakerPolicy, whole_ms

STORE_ERRORS: tuple[type[Exception], ...] = (redis.RedisError, OSError)
AUDIT_LENGTH = 10_000

logger = logging.getLogger("celeriac")


@dataclass(frozen=True)
class Reply:
    """What a script call answers. `old` is set when the call made a transition."""

    granted: bool
    state: State
    epoch: int
    remaining_ms: int
    old: State | None
    reason: str


@dataclass(frozen=True)
class IndexEntry:
    state: State
    epoch: int
    remaining_ms: int


def connect(url: str, timeout_s: float) -> redis.Redis:
    """A client that waits at most `timeout_s` for anything and never retries by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


class CircuitStore:
    """The shared state of all circuits of one namespace."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        prefix = f"{namespace}:v1"
        self._client = client
        self._prefix = prefix
        self._index, self._version = f"{prefix}:circuits", f"{prefix}:circuits:version"
        self._audit = f"{prefix}:audit"
        self.channel = f"{prefix}:circuits"
        self._source = lua.source(__package__, "circuit.lua")
        self._script = client.register_script(self._source)

    def reconnect_in_child(self) -> None:
        """After a fork: connections of the child's own, without touching the inherited pool.

        redis-py resets that pool under its lock, which a thread of the parent may have held at the fork; in the child
        that thread does not exist, and the first command would wait for it for ever.
        """
        inherited = self._client.connection_pool
        pool = redis.ConnectionPool(
            inherited.connection_class, inherited.max_connections, **inherited.connection_kwargs
        )
        self._client = redis.Redis(connection_pool=pool)
        self._script = self._client.register_script(self._source)

    def record(
        self, name: str, policy: BreakerPolicy, outcome: Outcome, jitter: float, now_ms: int | None = None
    ) -> Reply:
        args = [outcome.epoch, outcome.worker, outcome.successes, int(outcome.failure), outcome.permit]
        return self._call("record", name, policy, jitter, now_ms, args)

    def admit(self, name: str, policy: BreakerPolicy, permit: str, lease_s: float, now_ms: int | None = None) -> Reply:
        return self._call("admit", name, policy, 0.0, now_ms, [permit, whole_ms(lease_s)])

    def reset(
        self, name: str, policy: BreakerPolicy, reason: str, epoch: int | None, now_ms: int | None = None
    ) -> Reply:
        return self._call("reset", name, policy, 0.0, now_ms, ["" if epoch is None else epoch, reason])

    def audit(self, entry: dict[str, Any]) -> None:
        """Append an operator's action; the stream keeps about the last 10,000."""
        fields = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entry.items()}
        self._client.xadd(self._audit, cast("Any", fields), maxlen=AUDIT_LENGTH, approximate=True)

    def audit_entries(self, count: int) -> list[dict[str, str]]:
        """The newest `count` operator actions, newest first, each with the stream id as `id`."""
        rows = cast("list[tuple[str, dict[str, str]]]", self._client.xrevrange(self._audit, count=count))
        return [{"id": row_id, **fields} for row_id, fields in rows]

    def version(self) -> int:
        """A number that every transition raises; a cheap question whether views are fresh."""
        return int(cast("str | None", self._client.get(self._version)) or 0)

    def index(self) -> dict[str, IndexEntry]:
        """Every circuit known, with what a local view needs."""
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        pipe.hgetall(self._index)
        (seconds, micros), rows = pipe.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        entries = {name: _entry(text, now_ms) for name, text in rows.items()}
        return {name: entry for name, entry in entries.items() if entry is not None}

    def describe(self, names: list[str], now_ms: int) -> dict[str, dict[str, str]]:
        """The raw fields of the named circuits; permits that have not expired at `now_ms` are counted as `held`."""
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._key(name))
            pipe.zcount(self._permits(name), f"({now_ms}", "+inf")
        rows = pipe.execute()
        return {
            name: {**rows[2 * i], "held": str(rows[2 * i + 1])} for i, name in enumerate(names) if rows[2 * i]
        }  # fmt: skip

    def server_time_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def listen(self) -> redis.client.PubSub:
        """A subscription to transitions; each message is "name state epoch remaining_ms"."""
        subscription: redis.client.PubSub = self._client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(self.channel)
        return subscription

    def close(self) -> None:
        self._client.close()

    def _call(
        self, op: str, name: str, policy: BreakerPolicy, jitter: float, now_ms: int | None, args: list[Any]
    ) -> Reply:
        keys = [self._key(name), self._permits(name), self._index, self._version, self.channel]
        now = "" if now_ms is None else now_ms
        row = self._script(keys=keys, args=[op, name, now, jitter, *_policy_args(policy), *args])
        granted, state, epoch, remaining, old, reason = cast("list[Any]", row)
        return Reply(
            bool(granted), _state(state), int(epoch), int(remaining), _state(old) if old else None, str(reason)
        )

    def _key(self, name: str) -> str:
        return f"{self._prefix}:circuit:{name}"

    def _permits(self, name: str) -> str:
        return f"{self._prefix}:permits:{name}"


def parse_push(text: str) -> tuple[str, IndexEntry]:
    """A pushed transition: the circuit's name and its new state."""
    name, state, epoch, remaining = text.split(" ")
    return name, IndexEntry(_state(state), int(epoch), int(remaining))


def pushes(subscription: redis.client.PubSub, wait_s: float) -> Iterator[str]:
    """What arrived on a subscription: waits up to `wait_s` for the first, then takes what is there."""
    message = subscription.get_message(timeout=wait_s)
    while message is not None:
        if message["type"] == "message":
            yield str(message["data"])
        message = subscription.get_message(timeout=0.0)


def _entry(text: str, now_ms: int) -> IndexEntry | None:
    """A row of the index; None for one that is mangled."""
    try:
        state, epoch, until_ms = text.split(" ")
        return IndexEntry(_state(state), int(epoch), max(0, int(until_ms) - now_ms))
    except ValueError:
        _say_once(f"row {text!r} of the circuits' index is not understood")
        return None


def _state(text: str) -> State:
    """A state by name. One that this release does not know, as in a rolling update, lets calls pass."""
    try:
        return State(text)
    except ValueError:
        _say_once(f"circuit state {text!r} is not known to this release; it is taken for closed")
        return State.CLOSED


@lru_cache(maxsize=100)
def _say_once(sentence: str) -> None:
    logger.warning("celeriac: %s", sentence)


def _policy_args(policy: BreakerPolicy) -> list[Any]:
    return [
        policy.consecutive_failures,
        policy.failure_ratio,
        policy.window_ms,
        policy.minimum_calls,
        policy.open_ms,
        policy.open_max_ms,
        policy.jitter,
        policy.half_open_permits,
        policy.success_threshold,
    ]
