"""What `with_retry` accepts: options, and what can be called again and again. Anything else is refused at once."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any, cast

from resilience import current
from resilience.breaker.calls import CircuitCalls
from resilience.retry.backoff import YEAR_S, Wait, checked, server_hint
from resilience.retry.fleet import RetryBudgets


@dataclass(frozen=True)
class Terms:
    """What `with_retry` was told."""

    attempts: int
    wait: Wait
    circuit: CircuitCalls | None
    timeout_s: float | None
    deadline_s: float | None
    budget: bool | RetryBudgets

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise ValueError(f"with_retry: attempts is {self.attempts!r}, but a whole number from 1 on is right")
        for name in ("timeout_s", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not _is_time(value):
                raise ValueError(
                    f"with_retry: {name} is {value!r}, but seconds above 0 are right, or None for no limit"
                )
        if not isinstance(self.budget, (bool, RetryBudgets)):
            raise TypeError(f"with_retry: budget is {self.budget!r}, but True, False or RetryBudgets.of(...) is right")
        if isinstance(self.budget, RetryBudgets) and self.circuit is None:
            raise ValueError("with_retry: a budget belongs to a circuit: give circuit= too, or leave budget out")


def heeding(backoff: Any) -> Wait:
    """The wait that is used: heeding the server, and checked, for a user's function may answer anything."""
    if not callable(backoff):
        raise TypeError(f"with_retry: backoff is {backoff!r}, but a strategy is right, such as backoff.exponential()")
    wait = backoff if isinstance(backoff, server_hint) else server_hint(cast("Wait", backoff))
    return lambda state: min(checked(wait(state)), YEAR_S)


def found(circuit: Any) -> CircuitCalls | None:
    if circuit is None or isinstance(circuit, CircuitCalls):
        return circuit
    return current.circuit(circuit)


def usable_name(fn: Any) -> str:
    """The name of what is to be called, if it can be called again and again; else TypeError."""
    if isinstance(fn, (staticmethod, classmethod)):
        raise TypeError(f"with_retry: put it under @{type(fn).__name__}, next to the function")
    if not callable(fn):
        raise TypeError(f"with_retry: {fn!r} cannot be called: give a function, or options by name")
    inner = fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    for function in (fn, _call_of(fn)):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"with_retry: {name} is a generator, whose body runs after the call has returned: "
                "wrap a function that makes one request, and call it inside the generator"
            )
    return f"{getattr(inner, '__module__', None) or type(inner).__module__}.{name}"


def is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_call_of(fn))


def no_coroutine(result: Any, name: str) -> Any:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"with_retry: {name} is a plain function that returns a coroutine: make it `async def`")
    return result


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= YEAR_S


def _call_of(fn: Any) -> Any:
    """What calling an object of a user's class runs."""
    return vars(type(fn)).get("__call__")
