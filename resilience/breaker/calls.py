"""Calls through a circuit as people write them: `with`, `async with`, and a decorator for sync and async functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from resilience.breaker.permit import Ending, Permit
from signals.events import Result

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers

F = TypeVar("F", bound=Callable[..., Any])

_entered: ContextVar[tuple[Permit, ...]] = ContextVar("celeriac_entered", default=())
"""Permits of the `with` blocks that this thread, greenlet or asyncio task is in, innermost last."""

_task: ContextVar[Permit | None] = ContextVar("celeriac_task", default=None)
"""The permit of the Celery task that runs here."""


class _Nobody:
    """Settles nothing: the call is part of a larger one, whose outcome is what counts."""

    def settle(self, *_: object) -> None: ...

    def settle_at_once(self, *_: object) -> None: ...


_NOBODY = _Nobody()


run_under = _task.set
"""A task begins to run under a permit: calls through the same circuit inside it are part of it until it is settled.

Else they would count twice, and where one probe is let through the task would stand in the way of its own call.
"""


class CircuitCalls:
    """One circuit, ready to be called through. May be kept, shared by threads and asyncio tasks, and nested.

    Refused calls raise CircuitOpenError. An exception counts against the circuit if its category does; being
    cancelled or interrupted says nothing about the dependency.
    """

    def __init__(self, name: str, find: Callable[[], Breakers]) -> None:
        self.name = name
        self._find = find
        self._inside: dict[Permit, bool] = {}

    @property
    def breakers(self) -> Breakers:
        """The circuits that this one belongs to."""
        return self._find()

    def __enter__(self) -> Permit:
        return self._enter(self._part_of_task() or self._find().admit(self.name))

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._leave().settle(_ending(error))

    async def __aenter__(self) -> Permit:
        return self._enter(self._part_of_task() or await self._find().admit_async(self.name))

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._leave().settle_async(_ending(error))

    def __call__(self, function: F) -> F:
        """`function` with every call of it going through the circuit."""
        if _is(inspect.isgeneratorfunction, function) or _is(inspect.isasyncgenfunction, function):
            shown = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"circuit {self.name} cannot guard the generator {shown}: its body runs after the call has returned; "
                "use `with circuit(...)` inside it"
            )
        guard = self._guarded_async if _is(inspect.iscoroutinefunction, function) else self._guarded
        return cast("F", guard(function))

    def _part_of_task(self) -> Permit | None:
        """Inside a task that holds a permit of this very circuit: leave that nobody settles."""
        task = _task.get()
        if task is None or task.settled or task.name != self.name:
            return None
        return Permit(_NOBODY, self.name, task.epoch)

    def _enter(self, permit: Permit) -> Permit:
        self._inside[permit] = True
        outside = _entered.get()
        _entered.set((*(outer for outer in outside if not outer.settled), permit) if outside else (permit,))
        return permit

    def _leave(self) -> Permit:
        """The permit of the innermost `with` block of this circuit that this context is in.

        Generators end their blocks in any order, and a thread pool may end one in another context than it began in:
        then any permit of this very object is the right one.
        """
        entered = _entered.get()
        if entered and self._inside.pop(entered[-1], False):  # as nearly always
            _entered.set(entered[:-1])
            return entered[-1]
        permit = next((mine for mine in reversed(entered) if self._inside.pop(mine, False)), None)
        if permit is None:
            return self._inside.popitem()[0]
        _entered.set(tuple(other for other in entered if other is not permit))
        return permit

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def through_the_circuit(*args: Any, **kwargs: Any) -> Any:
            permit = self._part_of_task() or self._find().admit(self.name)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                permit.settle(_ending(error))
                raise
            permit.settle()
            return result

        return through_the_circuit

    def _guarded_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def through_the_circuit(*args: Any, **kwargs: Any) -> Any:
            permit = self._part_of_task() or await self._find().admit_async(self.name)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                await permit.settle_async(_ending(error))
                raise
            await permit.settle_async()
            return result

        return through_the_circuit


def _is(kind: Callable[[object], bool], function: Callable[..., Any]) -> bool:
    """Whether a function is of a kind; an object that can be called is what its `__call__` is."""
    return kind(function) or kind(type(function).__call__)


def _ending(error: BaseException | None) -> Ending:
    return error if error is None or isinstance(error, Exception) else Result.NOTHING
