"""Whether a failure is worth another attempt. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from resilience.errors.classify import classify
from resilience.errors.inspection import is_a, lineage
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory, Row

CAUSES_LIMIT = 8

_CONTROL = frozenset({
    ("celery", "SoftTimeLimitExceeded"), ("billiard", "SoftTimeLimitExceeded"),
    ("celery", "TaskPredicate"),  # Retry, Reject, Ignore
})  # fmt: skip


def may_pass(error: BaseException, matrix: Mapping[ErrorCategory, Row] = MATRIX) -> bool:
    """Whether the failure may pass by itself, by its row of the matrix. Being told to stop is no failure at all.

    So no to what is not an Exception (cancelled, interrupted, exiting), and to Celery's soft time limit, Retry,
    Reject and Ignore.
    """
    return is_a(error, Exception) and not is_control(error) and classify(error, matrix=matrix).row.transient


def is_control(error: BaseException) -> bool:
    """Celery's own words to a task, recognised without importing Celery."""
    return not _CONTROL.isdisjoint(lineage(error))


def refusal_in(error: BaseException) -> CircuitOpenError | None:
    """The circuit's refusal that the error is, or that it was raised from; then nothing was called."""
    link: BaseException | None = error
    for _ in range(CAUSES_LIMIT):
        if link is None or is_a(link, CircuitOpenError):
            return link
        link = link.__cause__
    return None
