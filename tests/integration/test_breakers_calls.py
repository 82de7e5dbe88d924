"""Calls through a circuit as people write them: `with`, `async with`, decorators; nested, interleaved, shared."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.testing import RecordingSink
from signals.events import StoreAway
from tests.integration.breaker_kit import MakeBreakers

PATIENT = BreakerPolicy(consecutive_failures=10_000, minimum_calls=1_000_000, open_s=60)
"""Counts everything and never opens."""


def counted(breakers: Breakers, name: str = "a") -> tuple[int, int]:
    """Successes and failures in the store."""
    breakers.flush()
    shown = breakers.snapshot(name)
    return shown.get("calls", 0) - shown.get("failures", 0), shown.get("failures", 0)


def test_a_call_that_raises_counts_by_its_category_and_raises_on(make: MakeBreakers) -> None:
    breakers = make()
    for _ in range(10):
        with pytest.raises(KeyError), breakers.circuit("a"):
            raise KeyError("a mistake is not the dependency's")
    assert breakers.get_state("a") == "closed"
    for _ in range(5):
        with pytest.raises(TimeoutError), breakers.circuit("a"):
            raise TimeoutError
    assert breakers.get_state("a") == "open"
    with pytest.raises(CircuitOpenError) as refusal, breakers.circuit("a"):
        pytest.fail("no call passes an open circuit")
    assert 0 < refusal.value.retry_after_s <= 60


# -- in how many ways it is written --------------------------------------------------------------------------------


def _by_with(breakers: Breakers, work: Callable[[], Any]) -> Any:
    with breakers.circuit("a"):
        return work()


def _by_decorator(breakers: Breakers, work: Callable[[], Any]) -> Any:
    @breakers.circuit("a")
    def guarded() -> Any:
        return work()

    return guarded()


def _by_call(breakers: Breakers, work: Callable[[], Any]) -> Any:
    return breakers.call("a", work)


def _by_async_with(breakers: Breakers, work: Callable[[], Any]) -> Any:
    async def main() -> Any:
        async with breakers.circuit("a"):
            await asyncio.sleep(0)
            return work()

    return asyncio.run(main())


def _by_async_decorator(breakers: Breakers, work: Callable[[], Any]) -> Any:
    @breakers.circuit("a")
    async def guarded() -> Any:
        await asyncio.sleep(0)
        return work()

    return asyncio.run(guarded())


def _by_async_call(breakers: Breakers, work: Callable[[], Any]) -> Any:
    async def guarded() -> Any:
        await asyncio.sleep(0)
        return work()

    async def main() -> Any:
        return await breakers.call("a", guarded)

    return asyncio.run(main())


WAYS = [_by_with, _by_decorator, _by_call, _by_async_with, _by_async_decorator, _by_async_call]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_calling_returns_counts_raises_and_refuses_alike(
    make: MakeBreakers, way: Callable[[Breakers, Callable[[], Any]], Any]
) -> None:
    breakers = make()

    def break_down() -> None:
        raise TimeoutError("gone")

    assert way(breakers, lambda: 42) == 42
    assert counted(breakers) == (1, 0)
    for _ in range(5):
        with pytest.raises(TimeoutError, match="gone"):
            way(breakers, break_down)
    assert breakers.get_state("a") == "open"
    with pytest.raises(CircuitOpenError):
        way(breakers, lambda: pytest.fail("no call passes an open circuit"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_being_interrupted_counts_nothing(
    make: MakeBreakers, way: Callable[[Breakers, Callable[[], Any]], Any], stop: type[BaseException]
) -> None:
    breakers = make(policy=PATIENT)

    def interrupt() -> None:
        raise stop

    with pytest.raises(stop):
        way(breakers, interrupt)
    assert counted(breakers) == (0, 0)


def test_a_decorated_function_keeps_its_name_its_arguments_and_its_kind(make: MakeBreakers) -> None:
    through = make().circuit("a")

    @through
    def plain(a: int, *, b: int) -> int:
        """Adds."""
        return a + b

    @through
    async def later(a: int) -> int:
        return a

    assert (plain.__name__, plain.__doc__, plain(1, b=2)) == ("plain", "Adds.", 3)
    assert asyncio.iscoroutinefunction(later)
    assert asyncio.iscoroutinefunction(through(functools.partial(later, 1)))
    assert asyncio.run(later(3)) == 3


def test_an_object_with_an_async_call_is_awaited_before_it_counts(make: MakeBreakers) -> None:
    class Client:
        async def __call__(self) -> None:
            await asyncio.sleep(0)
            raise TimeoutError

    breakers = make(policy=PATIENT)
    with pytest.raises(TimeoutError):
        asyncio.run(breakers.circuit("a")(Client())())
    assert counted(breakers) == (0, 1)


def test_a_generator_is_refused_with_the_way_that_works(make: MakeBreakers) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    class Numbers:
        def __call__(self) -> Iterator[int]:
            yield 1

    for generator in (numbers, later, functools.partial(numbers), Numbers()):
        with pytest.raises(TypeError, match=r"^circuit a cannot guard the generator .*use `with circuit"):
            make().circuit("a")(generator)


# -- who is in which block -----------------------------------------------------------------------------------------


def test_blocks_may_be_nested_in_one_another_and_in_themselves(make: MakeBreakers) -> None:
    breakers = make(policy=PATIENT)
    outer, inner = breakers.circuit("a"), breakers.circuit("b")
    with outer as first, suppress(TimeoutError), inner, outer as second:
        assert second is not first
        raise TimeoutError
    assert counted(breakers, "a") == (1, 1)
    assert counted(breakers, "b") == (0, 1)


def test_generators_end_their_blocks_in_any_order_and_settle_their_own(make: MakeBreakers) -> None:
    breakers = make(policy=PATIENT)

    def stream(name: str, length: int, fails: bool) -> Iterator[int]:
        with breakers.circuit(name):
            yield from range(length)
            if fails:
                raise TimeoutError

    short, long = stream("a", 1, fails=True), stream("b", 3, fails=False)
    with pytest.raises(TimeoutError):
        list(zip(short, long, strict=False))
    assert list(long) == [1, 2]
    assert counted(breakers, "a") == (0, 1), "the stream of a timed out"
    assert counted(breakers, "b") == (1, 0), "the stream of b did not"


def test_a_block_may_end_in_another_thread_than_it_began_in(make: MakeBreakers) -> None:
    """As a web framework does with the blocks of a dependency: enter on one thread of a pool, exit on another."""
    breakers = make(policy=PATIENT)
    through = breakers.circuit("a")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for error in (None, TimeoutError(), None):
            one.submit(through.__enter__).result()
            other.submit(through.__exit__, None if error is None else TimeoutError, error, None).result()
    assert counted(breakers) == (2, 1)


def test_asyncio_tasks_in_one_shared_circuit_settle_their_own_permits(make: MakeBreakers) -> None:
    """Of 60 that are inside together every third fails; half of them are in a second block of the same circuit."""
    breakers = make(policy=PATIENT)
    through, seen = breakers.circuit("a"), []

    async def one(number: int, gate: asyncio.Event) -> None:
        async with through as permit:
            await gate.wait()
            if number % 2:
                async with through as second:
                    await asyncio.sleep(0)
                assert second.settled
                assert not permit.settled
            seen.append(permit)
            if number % 3 == 0:
                raise TimeoutError

    async def main() -> list[BaseException | None]:
        gate = asyncio.Event()
        tasks = [asyncio.create_task(one(number, gate)) for number in range(60)]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert [type(result) for result in results] == [TimeoutError if n % 3 == 0 else type(None) for n in range(60)]
    assert len(set(seen)) == 60
    assert all(permit.settled for permit in seen)
    assert counted(breakers) == (40 + 30, 20)


def test_threads_that_hammer_one_shared_circuit_are_counted_exactly(make: MakeBreakers) -> None:
    breakers = make(policy=PATIENT)
    through, start = breakers.circuit("a"), threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(500):
            with suppress(TimeoutError), through:
                if turn % 50 == number:
                    raise TimeoutError

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(breakers) == (8 * 490, 8 * 10)


def test_three_hundred_threads_that_fail_at_once_are_all_counted_and_redis_is_not_thought_away(
    make: MakeBreakers,
) -> None:
    """As when a dependency breaks under full load. redis-py refuses to open more than a hundred connections."""
    sink = RecordingSink()
    breakers = make(policy=PATIENT, sink=sink, timeout_s=2.0)
    breakers.record_success("a")
    start = threading.Barrier(300)

    def work() -> None:
        start.wait()
        breakers.record_failure("a")

    threads = [threading.Thread(target=work) for _ in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.of(StoreAway) == []
    assert counted(breakers) == (1, 300)
