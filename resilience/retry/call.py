"""`with_retry`: calls that are tried again, for plain and async functions, on tenacity.

Both kinds share `_Call`, which holds every decision; tenacity's two classes only run and sleep differently.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar, overload

from tenacity import AsyncRetrying, RetryCallState, Retrying
from tenacity.nap import sleep as nap

from resilience.breaker.calls import CircuitCalls
from resilience.errors.taxonomy import MATRIX, ErrorCategory, Row
from resilience.retry import attempt
from resilience.retry.backoff import Wait, exponential
from resilience.retry.fleet import RetryBudgets
from resilience.retry.terms import Terms, found, heeding, is_async, no_coroutine, usable_name
from resilience.retry.verdict import may_pass, refusal_in

F = TypeVar("F", bound=Callable[..., Any])

ATTEMPTS = 3
BACKOFF = exponential(first_s=0.1, factor=2.0, cap_s=10.0)
TIMEOUT_S = 30.0


@overload
def with_retry(
    fn: F, *, attempts: int = ..., backoff: Wait = ..., circuit: str | CircuitCalls | None = ...,
    timeout_s: float | None = ..., deadline_s: float | None = ..., budget: bool | RetryBudgets = ...,
) -> F: ...  # fmt: skip
@overload
def with_retry(
    fn: None = None, *, attempts: int = ..., backoff: Wait = ..., circuit: str | CircuitCalls | None = ...,
    timeout_s: float | None = ..., deadline_s: float | None = ..., budget: bool | RetryBudgets = ...,
) -> Callable[[F], F]: ...  # fmt: skip
def with_retry(
    fn: Any = None, *, attempts: int = ATTEMPTS, backoff: Wait = BACKOFF,
    circuit: str | CircuitCalls | None = None, timeout_s: float | None = TIMEOUT_S, deadline_s: float | None = None,
    budget: bool | RetryBudgets = True,
) -> Any:  # fmt: skip
    """`fn`, called again when it fails with what may pass by itself; it keeps its signature, sync or async.

        answer = with_retry(fetch)(url)                        # wraps; the second pair of brackets calls
        @with_retry                                            # or decorates, with options or without
        @with_retry(attempts=5, circuit="openai")

    The error matrix says what may pass (`classify(error).row.transient`); TransientError and PermanentError decide for
    themselves. In the end the last attempt's own exception is raised, with a note why there was no further one.

    `attempts`: at most so many, the first included.
    `backoff`: the wait between them, from `resilience.backoff` or any tenacity wait. A Retry-After of the server wins
    over it, up to 60 s.
    `timeout_s`: an attempt that takes longer fails with TimeoutError. A coroutine is cancelled; a plain function runs
    on a thread of its own (context variables travel, thread-locals do not) and may run on after it was given up. None:
    no limit, and a plain function runs in the caller's thread.
    `deadline_s`: seconds for all of it. No attempt begins after them, none that has a `timeout_s` outlasts them.
    `circuit`: each attempt goes through it, by name in the current app's breakers, or as `breakers.circuit(name)`. A
    refusal is raised at once, unless the circuit may let calls through by the end of the wait.
    `budget`: retries are spent from the fleet's budget of that circuit; False: they are not.

    Raises ValueError or TypeError at once for options that make no sense.
    """
    terms = Terms(attempts, heeding(backoff), found(circuit), timeout_s, deadline_s, budget)
    if fn is None:
        return lambda function: _wrapped(function, terms)
    return _wrapped(fn, terms)


class _Call:
    """One call with its attempts: what happens in each, and whether there is another."""

    def __init__(self, name: str, terms: Terms) -> None:
        self._name = name
        self._terms = terms
        self._began = time.monotonic()
        self._number = 0
        self._budgets: RetryBudgets | None = None
        self._matrix: Mapping[ErrorCategory, Row] = MATRIX
        self._error: BaseException | None = None

    def parts(self, stop: Callable[..., Any], sleep: Callable[[float], Any]) -> dict[str, Any]:
        """What each of tenacity's classes is built from; `stop` and `sleep` are async for the one that awaits them."""
        return {
            "retry": self._may_pass,
            "wait": self._terms.wait,
            "stop": stop,
            "sleep": lambda seconds: sleep(self._pause_s(seconds)),
            "reraise": True,
        }

    # -- an attempt --------------------------------------------------------------------------------------------

    def way(self) -> CircuitCalls | nullcontext[None]:
        """What the next attempt goes through, for `with` and `async with`. After the deadline: the last error."""
        if self._error is not None and self._left_s() <= 0:
            raise self._error
        self._number += 1
        return self._terms.circuit or nullcontext()

    def limit_s(self) -> float | None:
        """The attempt was let through: how long it may take."""
        circuit, budget = self._terms.circuit, self._terms.budget
        if circuit is not None:
            self._matrix = circuit.breakers.matrix
        if circuit is not None and budget is not False and self._budgets is None:
            self._budgets = budget if isinstance(budget, RetryBudgets) else RetryBudgets.of(circuit.breakers)
            self._budgets.called(circuit.name)
        if self._terms.timeout_s is None:
            return None
        return max(0.001, min(self._terms.timeout_s, self._left_s()))

    def late(self, limit_s: float, then: str) -> str:
        return (
            f"{self._name} did not return within {limit_s:.3g} s "
            f"(attempt {self._number} of {self._terms.attempts}); {then}"
        )

    # -- another one? ------------------------------------------------------------------------------------------

    def stop(self, state: RetryCallState) -> bool:
        return self._note(self._why_stop(state) or self._why_no_budget())

    async def stop_async(self, state: RetryCallState) -> bool:
        why = self._why_stop(state)
        if not why and self._budgets is not None:
            why = await asyncio.to_thread(self._why_no_budget)
        return self._note(why)

    def _pause_s(self, seconds: float) -> float:
        """The wait, which asking for the budget may have left less time for."""
        return max(0.0, min(seconds, self._left_s()))

    def _may_pass(self, state: RetryCallState) -> bool:
        self._error = state.outcome.exception() if state.outcome is not None else None
        return self._error is not None and may_pass(self._error, self._matrix)

    def _why_stop(self, state: RetryCallState) -> str:
        """Why the attempt that failed was the last; "" if there may be another."""
        assert state.outcome is not None
        error = self._error = state.outcome.exception()
        refusal = refusal_in(error) if error is not None else None
        deadline_s = self._terms.deadline_s
        if state.attempt_number >= self._terms.attempts:
            return "it was the last"
        if refusal is not None and refusal.retry_after_s > state.upcoming_sleep:
            return f"circuit {refusal.name} would refuse the next as well"
        if deadline_s is not None and state.upcoming_sleep >= self._left_s():
            return f"the deadline of {deadline_s:g} s leaves no time for another"
        return ""

    def _why_no_budget(self) -> str:
        circuit = self._terms.circuit
        if self._budgets is None or circuit is None or self._budgets.may_retry(circuit.name):
            return ""
        return f"the retry budget of circuit {circuit.name} is used up"

    def _note(self, why: str) -> bool:
        text = f"celeriac: {self._name}: attempt {self._number} of {self._terms.attempts} failed, no further one: {why}"
        add_note = getattr(self._error, "add_note", None)  # Python 3.11
        if why and add_note is not None and text not in getattr(self._error, "__notes__", ()):
            add_note(text)
        return bool(why)

    def _left_s(self) -> float:
        deadline_s = self._terms.deadline_s
        return math.inf if deadline_s is None else self._began + deadline_s - time.monotonic()


def _wrapped(fn: Any, terms: Terms) -> Any:
    name = usable_name(fn)
    return _async_wrapped(fn, name, terms) if is_async(fn) else _plain_wrapped(fn, name, terms)


def _plain_wrapped(fn: Callable[..., Any], name: str, terms: Terms) -> Callable[..., Any]:
    @functools.wraps(fn)
    def with_attempts(*args: Any, **kwargs: Any) -> Any:
        call = _Call(name, terms)

        def try_once() -> Any:
            with call.way():
                limit_s = call.limit_s()
                if limit_s is None:
                    return no_coroutine(fn(*args, **kwargs), name)
                late = call.late(limit_s, "it is left to itself on its thread")
                return no_coroutine(attempt.run(lambda: fn(*args, **kwargs), limit_s, name, late), name)

        return Retrying(**call.parts(call.stop, nap))(try_once)

    return with_attempts


def _async_wrapped(fn: Callable[..., Any], name: str, terms: Terms) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def with_attempts(*args: Any, **kwargs: Any) -> Any:
        call = _Call(name, terms)

        async def try_once() -> Any:
            async with call.way():
                limit_s = call.limit_s()
                if limit_s is None:
                    return await fn(*args, **kwargs)
                return await attempt.run_async(fn(*args, **kwargs), limit_s, call.late(limit_s, "it was cancelled"))

        return await AsyncRetrying(**call.parts(call.stop_async, asyncio.sleep))(try_once)

    return with_attempts
