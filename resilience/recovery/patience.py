"""What a retry knows of the recovery that it is: the header that says so, and how much longer it may take.

The header travels with the retry, so that its end is counted for what was tried, and so that its time limits, and who
asks `current_patience()`, know how patient to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resilience.errors.taxonomy import ErrorCategory
from resilience.recovery.decide import LONGEST

RECOVERY_HEADER = "celeriac-recovery"
STRATEGIES = ("retry", "longer_timeout", "failover", "park")
"""Strategies whose attempt, when it ends, says whether they helped."""


@dataclass(frozen=True)
class Tried:
    """This attempt is a recovery by `strategy` from an error of `category`; it may take `factor` times as long."""

    strategy: str
    category: str
    factor: float = 1.0

    def header(self) -> list[Any]:
        """JSON-ready value of the header."""
        return [self.strategy, self.category, self.factor]


def tried_by(headers: Mapping[str, Any] | None) -> Tried | None:
    """What a message's headers say; None for a first attempt, and for what none of us wrote."""
    try:
        strategy, category, factor = (headers or {})[RECOVERY_HEADER]
        tried = Tried(str(strategy), ErrorCategory(category).value, float(factor))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return tried if tried.strategy in STRATEGIES and 1.0 <= tried.factor <= LONGEST else None


def current_patience() -> float:
    """How many times the usual time the running attempt may take: 1.0, up to 3.0 for retries after a timeout.

    Code with timeouts of its own multiplies them by it. 1.0 outside a task. Its Celery time limits grow by themselves.
    """
    from celery import current_task

    request = getattr(current_task, "request", None)  # a proxy of None outside a task
    tried = tried_by(getattr(request, "headers", None))
    return 1.0 if tried is None else tried.factor


def longer_limits(
    timelimit: Any, own: tuple[float | None, float | None], headers: Mapping[str, Any] | None, factor: float
) -> dict[str, float]:
    """Celery's options for a retry that may take `factor` times the usual time; {} where nothing limits it.

    `timelimit`: hard and soft limit that the message carries, as Celery has them, grown by what it was granted before;
    `own`: those of the task or the app, which count where the message carries none.
    """
    before = tried_by(headers)
    granted = 1.0 if before is None else before.factor
    carried = timelimit if isinstance(timelimit, (list, tuple)) and len(timelimit) == 2 else (None, None)
    names = ("time_limit", "soft_time_limit")
    usual = (limit / granted if limit else base for limit, base in zip(carried, own, strict=True))
    return {name: limit * factor for name, limit in zip(names, usual, strict=True) if limit}
