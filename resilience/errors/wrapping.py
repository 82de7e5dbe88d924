"""Making a wrapped error of any error. It is called where something has just failed, so it never raises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from resilience.errors.classify import classify
from resilience.errors.context import MESSAGE_LIMIT, ErrorContext
from resilience.errors.inspection import is_a, peek, qualified_name
from resilience.errors.severity import severity_at, worse
from resilience.errors.taxonomy import MATRIX, ErrorCategory, Row
from resilience.errors.wrapped import WrappedError
from signals.redact import describe, redact_value

ATTEMPT_LIMIT = 1_000_000_000


def wrap(
    error: BaseException,
    *,
    operation: str | None = None,
    attempt: int | None = None,
    task_id: str | None = None,
    task: str | None = None,
    worker: str | None = None,
    session: str | None = None,
    circuit: str | None = None,
    started_at: float | None = None,
    elapsed_s: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    all_workers_affected: bool = False,
    now: datetime | None = None,
    matrix: Mapping[ErrorCategory, Row] = MATRIX,
    **more: Any,
) -> WrappedError:
    """`error` with its category, severity and strategy, and with what is known about the call.

    `started_at` is in epoch seconds, `elapsed_s` in seconds (reckoned from `now` when only the start is given). Names
    that are not listed join the metadata. Wrapping a wrapped error adds to its context: what is given wins, the
    metadata is joined, the severity never falls, and the original stays the original.
    """
    given: dict[str, Any] = {
        "operation": operation, "task_id": task_id, "task": task, "worker": worker, "session": session,
        "circuit": circuit, "started_at": started_at, "elapsed_s": elapsed_s, "attempt": attempt,
    }  # fmt: skip
    given = {name: _fitting(name, value) for name, value in given.items() if value is not None}
    if now is not None and elapsed_s is None and given.get("started_at") is not None:
        given["elapsed_s"] = now.timestamp() - given["started_at"]
    known, original = _known(error, now, matrix)
    severity = severity_at(matrix[known["category"]], given.get("attempt", known["attempt"]), all_workers_affected)
    context = ErrorContext(**{
        **known,
        **given,
        "severity": worse(severity, known["severity"]),
        "metadata": {**known["metadata"], **_plain(metadata), **_plain(more)},
    })  # fmt: skip
    return WrappedError(context, original)


def _known(
    error: BaseException, now: datetime | None, matrix: Mapping[ErrorCategory, Row]
) -> tuple[dict[str, Any], BaseException]:
    """What the error itself tells of its context, and the exception that is to be wrapped."""
    wrapped = error if is_a(error, WrappedError) else None
    context, original = peek(wrapped, "context"), peek(wrapped, "original")
    if is_a(context, ErrorContext) and is_a(original, BaseException):
        return vars(context), original
    found = classify(error, now, matrix)
    return {
        "category": found.category,
        "severity": found.row.severity,
        "strategy": found.row.strategy,
        "error_type": qualified_name(error),
        "message": describe(error, MESSAGE_LIMIT),
        "attempt": 1,
        "retry_after_s": found.retry_after_s,
        "metadata": {},
    }, error


def _fitting(name: str, value: Any) -> Any:
    """`value` as the type that the field has; a caller's slip must not cost the error that is being wrapped."""
    if name == "attempt":
        return min(max(int(value), 1), ATTEMPT_LIMIT) if is_a(value, int) else 1
    if name in ("started_at", "elapsed_s"):
        number = float(value) if is_a(value, float) or (is_a(value, int) and abs(value) < 1e300) else math.nan
        return number if math.isfinite(number) else None
    return value if is_a(value, str) else str(redact_value(value))


def _plain(data: Any) -> dict[Any, Any]:
    try:
        return dict(data or {})
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  no mapping, or one that breaks when it is read
        return {"metadata": redact_value(data)}
