"""Leave to make one call, and what a circuit records of how the call ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from resilience.errors.classify import classify
from resilience.errors.taxonomy import CircuitOpenError
from signals.events import Result

Settle = Callable[[str, int, str, Result], None]
"""Takes circuit, epoch, permit id ("" outside half-open) and result."""


class Permit:
    """Leave to make one call. Settle it once; settling again does nothing."""

    __slots__ = ("__weakref__", "_settle", "epoch", "id", "lease_s", "name", "renewed_at")

    def __init__(self, settle: Settle, name: str, epoch: int, permit_id: str = "", lease_s: float = 0.0) -> None:
        self._settle: Settle | None = settle
        self.name = name
        self.epoch = epoch
        self.id = permit_id
        self.lease_s = lease_s
        self.renewed_at = time.monotonic()

    @property
    def renewal_is_due(self) -> bool:
        """Whether an unsettled half-open permit has used a third of its lease."""
        held = self._settle is not None and bool(self.id)
        return held and time.monotonic() - self.renewed_at >= self.lease_s / 3

    def settle(self, result: Result | BaseException | None = None) -> None:
        """Report how the call ended: an exception (classified here), a `Result`, or None for success. Never raises."""
        settle, self._settle = self._settle, None
        if settle is not None:
            settle(self.name, self.epoch, self.id, as_result(result))


def as_result(result: Result | BaseException | None) -> Result:
    """What a circuit records for an outcome: only categories that count are failures; the rest says nothing."""
    if result is None:
        return Result.SUCCESS
    if isinstance(result, Result):
        return result
    if isinstance(result, CircuitOpenError):
        return Result.NOTHING
    return Result.FAILURE if classify(result).row.counts else Result.NOTHING
