"""Circuits in an event loop: it never waits for the store, and who is cancelled neither counts nor keeps a place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.local.redis_server import RedisServer
from resilience.testing import until
from signals.events import Result
from tests.integration.breaker_kit import SHORT, MakeBreakers, fail, refused

PATIENT = BreakerPolicy(consecutive_failures=10_000, minimum_calls=1_000_000, open_s=60)
SINGLE = SHORT.model_copy(update={"half_open_permits": 1, "success_threshold": 1})

TICK_S = 0.01
SLOW_TIMEOUT_S = 1.0
"""A store timeout that nobody could take for a busy machine, when the loop should wait for it."""


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """Ticks while the block runs; the list grows by the seconds from each tick to the next."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    try:
        yield gaps
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking


def assert_steady(gaps: list[float]) -> None:
    """Under 50 ms apart, but for two that a busy machine may take; never as far as the store's timeout."""
    longest = sorted(gaps)
    assert len(gaps) > 20
    assert longest[-1] < SLOW_TIMEOUT_S / 2, longest[-5:]
    assert longest[-3] < 0.05, longest[-5:]


def half_open(breakers: Breakers) -> None:
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)


def test_a_frozen_redis_does_not_hold_up_the_loop_in_half_open(make: MakeBreakers, own_redis: RedisServer) -> None:
    breakers = make(own_redis.url(), policy=SHORT, timeout_s=SLOW_TIMEOUT_S)
    half_open(breakers)
    probe = breakers.admit("a")

    async def ask() -> None:
        with suppress(CircuitOpenError):
            async with breakers.circuit("a"):
                await asyncio.sleep(0)

    async def main() -> list[float]:
        own_redis.freeze()
        try:
            async with heartbeat() as gaps:
                await asyncio.gather(probe.settle_async(), *(ask() for _ in range(5)))
        finally:
            own_redis.thaw()
        return gaps

    began = time.monotonic()
    assert_steady(asyncio.run(main()))
    assert time.monotonic() - began >= SLOW_TIMEOUT_S, "somebody did wait for the store"


@pytest.mark.parametrize("first_use", [True, False], ids=["its first look at the store", "reporting a failure"])
def test_a_frozen_redis_does_not_hold_up_the_loop_in(
    make: MakeBreakers, own_redis: RedisServer, first_use: bool
) -> None:
    breakers = make(own_redis.url(), timeout_s=SLOW_TIMEOUT_S)
    if not first_use:
        breakers.admit("a").settle()

    @breakers.circuit("a")
    async def call() -> None:
        raise TimeoutError

    async def main() -> list[float]:
        own_redis.freeze()
        try:
            async with heartbeat() as gaps:
                results = await asyncio.gather(*(call() for _ in range(3)), return_exceptions=True)
        finally:
            own_redis.thaw()
        assert [type(result) for result in results] == [TimeoutError] * 3
        return gaps

    assert_steady(asyncio.run(main()))


def test_who_is_cancelled_in_a_closed_circuit_counts_nothing(make: MakeBreakers) -> None:
    breakers = make()

    @breakers.circuit("a")
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        for _ in range(10):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(hang(), 0.01)

    asyncio.run(main())
    breakers.flush()
    assert breakers.snapshot("a") == {}, "nothing was ever reported"


def test_a_probe_that_is_cancelled_gives_its_place_back_at_once(make: MakeBreakers) -> None:
    breakers = make(policy=SINGLE)
    half_open(breakers)

    async def main() -> None:
        async with breakers.circuit("a"):
            await asyncio.Event().wait()

    async def cancelled() -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(main(), 0.1)

    asyncio.run(cancelled())
    assert breakers.get_state("a") == "half_open"
    breakers.call("a", lambda: None)
    assert breakers.get_state("a") == "closed"


def test_who_is_cancelled_while_he_waits_to_be_admitted_keeps_no_place(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    breakers = make(own_redis.url(), policy=SINGLE, timeout_s=10)
    half_open(breakers)

    async def main() -> None:
        own_redis.freeze()
        asking = asyncio.create_task(breakers.admit_async("a"))
        await asyncio.sleep(0.1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        own_redis.thaw()
        await asyncio.sleep(0.1)  # a loop that goes on, as a server's does

    asyncio.run(main())
    until(lambda: not refused(breakers), within_s=2, what="his place is free long before its lease of 60 s ends")


def test_a_report_outlives_the_cancelling_of_who_waits_for_it(make: MakeBreakers) -> None:
    """Also when no thread of the loop is free to begin with it."""
    breakers = make(policy=SINGLE)
    half_open(breakers)

    async def main() -> None:
        loop, busy = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        permit = await breakers.admit_async("a")
        loop.run_in_executor(None, busy.wait)
        settling = asyncio.create_task(permit.settle_async(Result.SUCCESS))
        await asyncio.sleep(0.05)
        settling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await settling
        busy.set()
        await asyncio.sleep(0.1)  # a loop that goes on, as a server's does

    asyncio.run(main())
    assert breakers.get_state("a") == "closed"


def test_asyncio_calls_are_counted_exactly(make: MakeBreakers) -> None:
    """Over several flushes of a tenth of a second, from tasks that run and fail side by side."""
    breakers = make(policy=PATIENT)
    through, made = breakers.circuit("a"), [0, 0]

    async def work() -> None:
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            fails = sum(made) % 97 == 96
            made[fails] += 1
            with suppress(TimeoutError):
                async with through:
                    await asyncio.sleep(0)
                    if fails:
                        raise TimeoutError

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(10)))

    asyncio.run(main())
    breakers.flush()
    shown = breakers.snapshot("a")
    assert (shown["calls"] - shown["failures"], shown["failures"]) == tuple(made)
    assert made[0] > 100
    assert made[1] > 2
