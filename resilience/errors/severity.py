"""How bad an error is by now, how long a recovery may take, and whether another attempt may follow. Pure.

`attempt` 1 is the first run, here as everywhere.
"""

from __future__ import annotations

from resilience.errors.taxonomy import Row, Severity

RISES_PAST_ATTEMPT = 3
ABANDONED_PAST_ATTEMPT = 2
"""For an error that is critical by its row, or because all workers are affected."""

ORDER = (Severity.WARNING, Severity.MINOR, Severity.MAJOR, Severity.CRITICAL)

_BUDGET_S = {Severity.CRITICAL: 5.0, Severity.MAJOR: 30.0, Severity.MINOR: 60.0, Severity.WARNING: 60.0}


def severity_at(row: Row, attempt: int, all_workers_affected: bool = False) -> Severity:
    """The severity of an error at its `attempt`: one step up past attempt 3, critical when all workers are affected."""
    if all_workers_affected:
        return Severity.CRITICAL
    step = 1 if attempt > RISES_PAST_ATTEMPT else 0
    return ORDER[min(ORDER.index(row.severity) + step, len(ORDER) - 1)]


def worse(one: Severity, other: Severity) -> Severity:
    """The higher of two severities."""
    return max(one, other, key=ORDER.index)


def time_budget_s(row: Row, user_facing: bool = False) -> float:
    """Seconds that a recovery action (reconnect, replace, fail over) may take; half when a person waits for it.

    By the row's own severity. It does not bound the retry schedule: max retries and the deadline do.
    """
    return _BUDGET_S[row.severity] / (2.0 if user_facing else 1.0)


def may_retry(row: Row, attempt: int, all_workers_affected: bool = False, limit: int | None = None) -> bool:
    """Whether another attempt may follow `attempt`, which failed.

    `limit`: retries that the caller allows, in place of the row's. An error that is critical by its row or because
    all workers are affected is given up past attempt 2 whatever the caller allows, unless its row allows more.
    Severity that rose with the attempts alone takes no retry away.
    """
    allowed = row.max_retries if limit is None else limit
    if all_workers_affected or row.severity is Severity.CRITICAL:
        allowed = min(allowed, max(ABANDONED_PAST_ATTEMPT, row.max_retries))
    return attempt <= allowed
