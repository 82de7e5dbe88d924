"""The breakers that are measured, each as its users call it: ours, pybreaker and purgatory, in memory and on Redis.

purgatory's Redis store is measured in its asyncio form, the only one that works (3.0.1 builds an asyncio client for the
synchronous form too).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pybreaker
import redis
from purgatory import AsyncCircuitBreakerFactory, AsyncRedisUnitOfWork, SyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from tests.bench.harness import Batch, Meter, Size

Call = Callable[[], Any]

OPEN_S = 0.001
"""How long a tripped circuit stays open: no bench has to wait for a probe."""
NEVER = 10_000
"""A threshold that no bench reaches."""
EXPECTED = (ConnectionError, CircuitOpenError, pybreaker.CircuitBreakerError, OpenedState)


def succeed() -> None:
    """The guarded work is nothing, so that the guard is all that costs."""


async def succeed_async() -> None:
    """The same for an event loop."""


class Dependency:
    """Guarded work that can be told to fail."""

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing

    def call(self) -> None:
        if self.failing:
            raise ConnectionError("connection refused")

    async def call_async(self) -> None:
        self.call()


@dataclass(frozen=True)
class Peer:
    """`circuit` makes calls through a new circuit that opens after so many failures in a row."""

    name: str
    circuit: Callable[[Dependency, int], Call]
    remote: bool
    awaited: bool = False


class Stage:
    """One Redis and all peers on it. A context manager."""

    def __init__(self, url: str, size: Size) -> None:
        self.url, self.size = url, size
        self._closing = ExitStack()
        self.meter = Meter(url)
        self._closing.callback(self.meter.close)
        self.client = self._closing.enter_context(redis.Redis.from_url(url))
        self.breakers = Breakers.from_url(url, timeout_s=5.0)
        self._closing.callback(self.breakers.close)
        self._loop = asyncio.new_event_loop()
        self._closing.callback(self._loop.close)
        self._memory = SyncCircuitBreakerFactory()
        work = AsyncRedisUnitOfWork(url)
        self._remote = AsyncCircuitBreakerFactory(uow=work)
        self._closing.callback(lambda: self.finish(work.contexts.redis.aclose()))  # type: ignore[attr-defined]
        self._numbers = itertools.count()
        self.ours = Peer("celeriac", self._ours, remote=False)
        self.pybreaker_memory = Peer("pybreaker, memory", self._pybreaker_memory, remote=False)
        self.pybreaker_redis = Peer("pybreaker, Redis", self._pybreaker_redis, remote=True)
        self.purgatory_memory = Peer("purgatory, memory", self._purgatory_memory, remote=False)
        self.purgatory_redis = Peer("purgatory, Redis (async)", self._purgatory_redis, remote=True, awaited=True)
        self.peers = (
            self.ours, self.pybreaker_memory, self.pybreaker_redis, self.purgatory_memory, self.purgatory_redis
        )  # fmt: skip

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_error: object) -> None:
        self._closing.close()

    def name(self) -> str:
        """The name of a circuit that nobody has used."""
        return f"bench-{next(self._numbers)}"

    def clear(self) -> None:
        """Forget all circuits, so that no figure depends on how many others were measured before."""
        self.breakers.flush()
        self.client.flushall()

    def finish(self, awaitable: Any) -> Any:
        return self._loop.run_until_complete(awaitable)

    def batch(self, calls: Sequence[Call], *, awaited: bool) -> Batch:
        """All these calls, one after the other; what they raise is expected."""

        def batch() -> int:
            for call in calls:
                try:
                    call()
                except EXPECTED:  # noqa: PERF203  a refusal or failure of each call is what is measured
                    continue
            return len(calls)

        async def awaits() -> int:
            for call in calls:
                try:
                    await call()
                except EXPECTED:  # noqa: PERF203  the same
                    continue
            return len(calls)

        return (lambda: int(self.finish(awaits()))) if awaited else batch

    def _ours(self, dependency: Dependency, threshold: int) -> Call:
        guarded: Call = self.breakers.circuit(self.name(), policy(threshold))(dependency.call)
        return guarded

    def _pybreaker_memory(self, dependency: Dependency, threshold: int) -> Call:
        return partial(pybreaker.CircuitBreaker(fail_max=threshold, reset_timeout=OPEN_S).call, dependency.call)

    def _pybreaker_redis(self, dependency: Dependency, threshold: int) -> Call:
        # it keeps the time of opening in whole seconds, rounded down: after any wait its circuit may be probed
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, self.client, namespace=self.name())
        breaker = pybreaker.CircuitBreaker(fail_max=threshold, reset_timeout=OPEN_S, state_storage=storage)
        return partial(breaker.call, dependency.call)

    def _purgatory_memory(self, dependency: Dependency, threshold: int) -> Call:
        guarded: Call = self._memory(self.name(), threshold=threshold, ttl=OPEN_S)(dependency.call)
        return guarded

    def _purgatory_redis(self, dependency: Dependency, threshold: int) -> Call:
        guarded: Call = self._remote(self.name(), threshold=threshold, ttl=OPEN_S)(dependency.call_async)
        return guarded


def policy(threshold: int) -> BreakerPolicy:
    """Ours, set to what the peers can do: so many failures in a row open it, one good probe closes it."""
    return BreakerPolicy(
        consecutive_failures=threshold, minimum_calls=1_000_000, open_s=OPEN_S, open_max_s=1.0, jitter=0,
        half_open_permits=1, success_threshold=1, ramp_s=0,
    )  # fmt: skip
