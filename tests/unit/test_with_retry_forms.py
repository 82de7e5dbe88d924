"""What `with_retry` wraps: functions, methods, partials, objects; and what it refuses, in one sentence."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import backoff, with_retry

FAST = backoff.custom(lambda _: 0.001)


def test_it_decorates_with_options_and_without_and_keeps_the_function_recognisable() -> None:
    @with_retry
    def bare(number: int) -> int:
        """Doc."""
        return number + 1

    @with_retry(attempts=2, backoff=FAST)
    async def with_options(number: int) -> int:
        return number + 2

    assert bare(1) == 2
    assert (bare.__name__, bare.__doc__, str(inspect.signature(bare))) == ("bare", "Doc.", "(number: 'int') -> 'int'")
    assert inspect.iscoroutinefunction(with_options)
    assert asyncio.run(with_options(1)) == 3


def test_methods_partials_and_objects_that_can_be_called_are_called_again_too() -> None:
    class Client:
        def __init__(self) -> None:
            self.calls = 0

        @with_retry(backoff=FAST)
        def fetch(self, name: str) -> str:
            return self("plain", name)

        @staticmethod
        @with_retry(backoff=FAST)
        def alone(name: str) -> str:
            return name

        def __call__(self, *words: str) -> str:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            return " ".join(words)

    assert Client().fetch("x") == "plain x"
    assert Client.alone("x") == "x"
    assert with_retry(functools.partial(Client(), "a"), backoff=FAST)("b") == "a b"
    assert with_retry(Client(), backoff=FAST)("c") == "c"


def test_partials_and_objects_that_are_async_are_awaited() -> None:
    class AsyncClient:
        calls = 0

        async def __call__(self, word: str) -> str:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            return word

    async def fetch(one: str, other: str) -> str:
        return one + other

    assert asyncio.run(with_retry(AsyncClient(), backoff=FAST)("x")) == "x"
    assert asyncio.run(with_retry(functools.partial(fetch, "a"))("b")) == "ab"


def test_threads_and_tasks_may_share_one_wrapped_function() -> None:
    first_calls: set[int] = set()

    @with_retry(backoff=FAST)
    def flaky(number: int) -> int:
        if number not in first_calls:
            first_calls.add(number)
            raise ConnectionError
        return number

    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(flaky(n))) for n in range(20)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> Any:
    yield 1


class _CallableGenerator:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: with_retry(5), "with_retry: 5 cannot be called: give a function, or options by name"),
        (lambda: with_retry(_generator), "with_retry: _generator is a generator, whose body runs after the call has"),
        (lambda: with_retry(_async_generator), "with_retry: _async_generator is a generator"),
        (lambda: with_retry(functools.partial(_generator)), "with_retry: _generator is a generator"),
        (lambda: with_retry(_CallableGenerator()), "with_retry: _CallableGenerator is a generator"),
        (lambda: with_retry(staticmethod(print)), "with_retry: put it under @staticmethod, next to the function"),
        (lambda: with_retry(attempts=0), "with_retry: attempts is 0, but a whole number from 1 on is right"),
        (lambda: with_retry(attempts=2.5), "with_retry: attempts is 2.5, but"),
        (lambda: with_retry(attempts=True), "with_retry: attempts is True, but"),
        (lambda: with_retry(timeout_s=-1), "with_retry: timeout_s is -1, but seconds above 0 are right, or None"),
        (lambda: with_retry(timeout_s=0), "with_retry: timeout_s is 0, but"),
        (lambda: with_retry(timeout_s=float("nan")), "with_retry: timeout_s is nan, but"),
        (lambda: with_retry(deadline_s="1"), "with_retry: deadline_s is '1', but"),
        (lambda: with_retry(deadline_s=float("inf")), "with_retry: deadline_s is inf, but"),
        (lambda: with_retry(backoff=1.5), "with_retry: backoff is 1.5, but a strategy is right, such as"),
        (lambda: with_retry(circuit="a b"), "circuit name 'a b' is not usable"),
        (lambda: with_retry(circuit=5), "circuit name 5 is not usable"),
        (lambda: with_retry(budget=0.2), "with_retry: budget is 0.2, but True, False or RetryBudgets.of(...) is right"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("timeout_s", [30.0, None])
def test_a_plain_function_that_returns_a_coroutine_is_said_instead_of_never_retried(timeout_s: float | None) -> None:
    async def fetch() -> None:
        pass

    def forgotten() -> Any:
        return fetch()

    with pytest.raises(TypeError, match="is a plain function that returns a coroutine: make it `async def`"):
        with_retry(forgotten, timeout_s=timeout_s)()
