"""Leave to make one call, and what a circuit records of how the call ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from resilience.breaker.policy import BreakerPolicy
from resilience.errors.classify import classify
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory, Row
from signals.events import Result

Ending = Result | BaseException | None
"""How a call ended: an exception, a Result, or None for success."""


class Settler(Protocol):
    """Takes circuit, epoch of the admission, half-open permit id or "", how the call ended, and seconds it took."""

    def settle(self, name: str, epoch: int, permit_id: str, ending: Ending, runtime_s: float | None) -> None: ...

    def settle_at_once(
        self, name: str, epoch: int, permit_id: str, ending: Ending, runtime_s: float | None
    ) -> Callable[[], None] | None:
        """Settle without I/O; what is left to do and may wait for the store, or None."""


class Permit:
    """Leave to make one call. Settle it once; settling again does nothing."""

    __slots__ = ("__weakref__", "_settler", "began", "epoch", "id", "lease_s", "name", "renewed_at")

    def __init__(self, settler: Settler, name: str, epoch: int, permit_id: str = "", lease_s: float = 0.0) -> None:
        self._settler: Settler | None = settler
        self.name = name
        self.epoch = epoch
        self.id = permit_id
        self.lease_s = lease_s
        self.began = self.renewed_at = time.monotonic()

    @property
    def settled(self) -> bool:
        return self._settler is None

    @property
    def renewal_is_due(self) -> bool:
        """Whether an unsettled half-open permit has used a third of its lease."""
        held = not self.settled and bool(self.id)
        return held and time.monotonic() - self.renewed_at >= self.lease_s / 3

    def settle(self, ending: Ending = None) -> None:
        """Report how the call ended: an exception (classified here), a `Result`, or None for success.

        Never raises; waits at most the store's timeout.
        """
        settler, self._settler = self._settler, None
        if settler is not None:
            settler.settle(self.name, self.epoch, self.id, ending, time.monotonic() - self.began)

    async def settle_async(self, ending: Ending = None) -> None:
        """The same for an event loop, which never waits for the store."""
        settler, self._settler = self._settler, None
        if settler is None:
            return
        rest = settler.settle_at_once(self.name, self.epoch, self.id, ending, time.monotonic() - self.began)
        if rest is not None:
            await asyncio.shield(asyncio.to_thread(rest))  # who is cancelled now has made the call all the same


async def permit_from_thread(ask: Callable[[], Permit]) -> Permit:
    """`ask()` on a thread. Who is cancelled while he waits keeps no place: his permit is settled as nothing."""
    loop = asyncio.get_running_loop()
    asked = asyncio.ensure_future(asyncio.to_thread(ask))

    def give_back(done: asyncio.Future[Permit]) -> None:
        if not done.cancelled() and done.exception() is None:
            loop.run_in_executor(None, done.result().settle, Result.NOTHING)

    try:
        return await asyncio.shield(asked)
    except asyncio.CancelledError:
        asked.add_done_callback(give_back)
        raise


def as_result(
    ending: Ending, policy: BreakerPolicy | None = None, matrix: Mapping[ErrorCategory, Row] = MATRIX
) -> Result:
    """What a circuit records for an outcome: only categories that count are failures; the rest says nothing."""
    if ending is None:
        return Result.SUCCESS
    if isinstance(ending, Result):
        return ending
    if isinstance(ending, CircuitOpenError) or not isinstance(ending, Exception):
        return Result.NOTHING
    category = classify(ending).category
    if not (policy or BreakerPolicy()).counts(category, matrix[category]):
        return Result.NOTHING
    return Result.LIMITED if category is ErrorCategory.RATE_LIMIT else Result.FAILURE
