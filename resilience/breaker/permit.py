"""Leave to make one call, and what a circuit records of how the call ended."""

from __future__ import annotations

from collections.abc import Callable

from resilience.errors.classify import classify
from resilience.errors.taxonomy import CircuitOpenError
from signals.events import Result

Settle = Callable[[str, int, str, Result], None]
"""Takes circuit, epoch, permit id ("" outside half-open) and result."""


class Permit:
    """Leave to make one call. Settle it once; settling again does nothing."""

    __slots__ = ("_settle", "epoch", "id", "name")

    def __init__(self, settle: Settle, name: str, epoch: int, permit_id: str = "") -> None:
        self._settle: Settle | None = settle
        self.name = name
        self.epoch = epoch
        self.id = permit_id

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
