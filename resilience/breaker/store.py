"""Circuits in Redis: thin calls of `circuit.lua`, the index that views are fed from, the audit stream.

Every method is one round trip and raises one of STORE_ERRORS when Redis is away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import redis

from resilience.audit import ACTOR_LENGTH, REASON_LENGTH
from resilience.breaker.machine import FORCED, Action, Outcome, State
from resilience.breaker.policy import BreakerPolicy, whole_ms
from resilience.shared_redis import SharedRedis

NO_END = -1
"""`remaining_ms` of a state that no clock ends."""

_SCRIPT = "circuit.lua"

LONGEST_TTL_S = 30 * 86_400.0

logger = logging.getLogger("celeriac")


@dataclass(frozen=True)
class Reply:
    """What a script call answers. `old` is set when the call made a transition.

    `remaining_ms`: until an open circuit may be probed, a forced state ends, a ramp is over; NO_END for none of it.
    `former_policy`: the numbers that the circuit had been used with, when this call came with others; else "".
    """

    granted: bool
    state: State
    epoch: int
    remaining_ms: int
    old: State | None
    reason: str
    former_policy: str = ""


class Report(NamedTuple):
    """An outcome on its way to a circuit; `jitter` is a random number in [0, 1)."""

    name: str
    policy: BreakerPolicy
    outcome: Outcome
    jitter: float


@dataclass(frozen=True)
class IndexEntry:
    state: State
    epoch: int
    remaining_ms: int


@dataclass(frozen=True)
class Order:
    """An operator's word: what, who, why; only at `epoch`, if one is given; a forced state ends after `ttl_s`."""

    action: Action
    actor: str
    reason: str
    epoch: int | None = None
    ttl_s: float | None = None

    def cleaned(self, clean: Callable[[str], str]) -> Order:
        """One printable line each, without what `clean` takes out, and bounded: everybody can read the audit.

        Raises ValueError for an empty line, and for a time that is none.
        """
        actor, reason = (
            _one_line(clean(str(self.actor)), ACTOR_LENGTH),
            _one_line(clean(str(self.reason)), REASON_LENGTH),
        )
        if not actor or not reason:
            raise ValueError(f"{self.action.value} needs an actor and a reason: who does it, and why")
        if self.ttl_s is not None and not 0 < self.ttl_s <= LONGEST_TTL_S:
            raise ValueError(
                f"{self.action.value} for {self.ttl_s:.12g} s is not possible: above 0 and up to {LONGEST_TTL_S:.0f} s "
                "(30 days) is; without a time it lasts until further notice"
            )
        return replace(self, actor=actor, reason=reason)

    @property
    def shown(self) -> str:
        """Why the circuit is in its state, as everybody sees it."""
        return f"{self.action.value} by {self.actor}: {self.reason}"


class CircuitStore:
    """The shared state of all circuits of one namespace."""

    def __init__(self, shared: SharedRedis) -> None:
        self._shared = shared
        shared.load(__package__, _SCRIPT)
        prefix = shared.prefix
        self._index, self._version = f"{prefix}:circuits", f"{prefix}:circuits:version"
        self._audit = f"{prefix}:audit"
        self.channel = f"{prefix}:circuits"

    @property
    def _client(self) -> redis.Redis:
        return self._shared.client

    def record(
        self, name: str, policy: BreakerPolicy, outcome: Outcome, jitter: float, now_ms: int | None = None
    ) -> Reply:
        return self._call("record", name, policy, jitter, now_ms, _told(outcome))

    def record_all(self, reports: Sequence[Report]) -> list[Reply]:
        """Many outcomes in two round trips, or one in one; the replies in the same order."""
        if len(reports) == 1:
            return [self.record(*reports[0])]
        calls = [
            self._arguments("record", name, policy, jitter, None, _told(outcome))
            for name, policy, outcome, jitter in reports
        ]
        return [_reply(row) for row in self._shared.run_all(_SCRIPT, calls)]

    def admit(self, name: str, policy: BreakerPolicy, permit: str, lease_s: float, now_ms: int | None = None) -> Reply:
        return self._call("admit", name, policy, 0.0, now_ms, [permit, whole_ms(lease_s)])

    def order(self, name: str, policy: BreakerPolicy, order: Order, now_ms: int | None = None) -> Reply:
        """Do what an operator says and write it into the audit, both or neither."""
        ttl_ms = 0 if order.ttl_s is None else whole_ms(order.ttl_s)
        epoch = "" if order.epoch is None else order.epoch
        args = [epoch, order.action.value, ttl_ms, order.shown, order.actor, order.reason]
        return self._call("order", name, policy, 0.0, now_ms, args)

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
        """The raw fields of the named circuits; permits that have not expired at `now_ms` are counted as `held`.

        Of a forced circuit that was evicted, what the index says: an operator's word counts on.
        """
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._key(name))
            pipe.zcount(self._permits(name), f"({now_ms}", "+inf")
            pipe.hget(self._index, name)
        rows = pipe.execute()
        known = ((name, rows[3 * i] or _forced(rows[3 * i + 2]), rows[3 * i + 1]) for i, name in enumerate(names))
        return {name: {**fields, "held": str(held)} for name, fields, held in known if fields}

    def server_time_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def listen(self) -> redis.client.PubSub:
        """A subscription to transitions; each message is "name state epoch remaining_ms"."""
        subscription: redis.client.PubSub = self._client.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe(self.channel)
        return subscription

    def knock(self) -> None:
        """Raise unless Redis takes writes by scripts: one that only answers questions, as a replica, is away too."""
        self._shared.run(_SCRIPT, [f"{self._shared.prefix}:knock"], ["knock"])

    def _call(
        self, op: str, name: str, policy: BreakerPolicy, jitter: float, now_ms: int | None, args: list[Any]
    ) -> Reply:
        return _reply(self._shared.run(_SCRIPT, *self._arguments(op, name, policy, jitter, now_ms, args)))

    def _arguments(
        self, op: str, name: str, policy: BreakerPolicy, jitter: float, now_ms: int | None, args: list[Any]
    ) -> tuple[list[str], list[Any]]:
        """Keys and arguments of the script."""
        keys = [self._key(name), self._permits(name), self._index, self._version, self.channel, self._audit]
        now = "" if now_ms is None else now_ms
        return keys, [op, name, now, jitter, numbers_of(policy), *args]

    def _key(self, name: str) -> str:
        return f"{self._shared.prefix}:circuit:{name}"

    def _permits(self, name: str) -> str:
        return f"{self._shared.prefix}:permits:{name}"


def _one_line(text: str, limit: int) -> str:
    """Only what a terminal prints as it is: no colours, no moved cursor, no half of a character."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:limit]


def _told(outcome: Outcome) -> list[Any]:
    """An outcome as the script reads it."""
    return [
        outcome.epoch, outcome.worker, outcome.successes, outcome.slow,
        int(outcome.failure), int(outcome.limited), int(outcome.slow_failure), outcome.permit,
    ]  # fmt: skip


def _reply(row: Any) -> Reply:
    """Raises redis.InvalidResponse, one of STORE_ERRORS, for an answer that is damaged."""
    try:
        granted, state, epoch, remaining, old, reason, former = cast("list[Any]", row)
        return Reply(
            bool(granted), _state(state), int(epoch), int(remaining), _state(old) if old else None, str(reason), former
        )
    except ValueError as error:
        raise redis.InvalidResponse(f"the script answered {row!r}") from error


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
    """A row of the index; None for one that is mangled. A state entered later than now begins now: see `begun_by`."""
    try:
        state, epoch, until_ms, *changed_ms = text.split(" ")
        until, begun = int(until_ms), max(now_ms, *map(int, changed_ms), 0)
        return IndexEntry(_state(state), int(epoch), max(0, until - begun) if until else NO_END)
    except ValueError:
        _say_once(f"row {text!r} of the circuits' index is not understood")
        return None


def _forced(row: str | None) -> dict[str, str]:
    """The fields that a row of the index tells of a circuit that is forced; nothing of another one."""
    fields = dict(zip(("state", "epoch", "until", "changed"), (row or "").split(" "), strict=False))
    return fields if fields["state"] in {state.value for state in FORCED} else {}


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


NUMBERS = (
    "consecutive_failures", "failure_ratio", "rate_limit_ratio", "slow_ratio", "window_ms", "window_calls",
    "minimum_calls", "open_ms", "open_max_ms", "jitter", "half_open_permits", "success_threshold", "ramp_ms",
)  # fmt: skip
"""The rules of a policy in the order in which the script reads them."""


@lru_cache(maxsize=1_000)
def numbers_of(policy: BreakerPolicy) -> str:
    """A policy as the script reads it; 0 for what is off. What only this process needs is not part of it."""
    values = {name: getattr(policy, name) or 0 for name in NUMBERS}
    if policy.slow_call_s is None:
        values["slow_ratio"] = 0
    return " ".join(str(values[name]) for name in NUMBERS)
