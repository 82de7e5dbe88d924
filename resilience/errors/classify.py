"""From an exception to its category, its row of the matrix, and the server's hint when to come back.

Asked in order: users' rules, our own types, then what the exception shows of itself (`resilience.errors.evidence`).
One that shows nothing is judged by what caused it. Whatever an exception does when it is looked at, classifying it
never raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from resilience.errors.evidence import IN_ORDER
from resilience.errors.hints import retry_after_s
from resilience.errors.inspection import is_a, lineage, peek
from resilience.errors.taxonomy import (
    MATRIX,
    CircuitOpenError,
    ErrorCategory,
    PermanentError,
    Row,
    TransientError,
)
from resilience.errors.wrapped import WrappedError
from signals.redact import describe, type_name

_C = ErrorCategory

CAUSES_LIMIT = 8
"""How far back a chain of causes is followed."""

logger = logging.getLogger("celeriac")


@dataclass(frozen=True)
class Classified:
    """An error's category, its row of the matrix, and the server's own hint when to come back (seconds)."""

    category: ErrorCategory
    row: Row
    retry_after_s: float | None = None


UserRule = Callable[[BaseException], "ErrorCategory | None"]
_user_rules: list[UserRule] = []


def rule(function: UserRule) -> UserRule:
    """Decorator: `function(error)` returns a category, or None to pass. The latest added rule is asked first.

    A rule that raises is logged and passed over.
    """
    _user_rules.insert(0, function)
    return function


def classify(
    error: BaseException, now: datetime | None = None, matrix: Mapping[ErrorCategory, Row] = MATRIX
) -> Classified:
    """The category of `error` with its row of `matrix`. `now` serves a Retry-After that is a date.

    An error that shows no evidence of its own has the category of its explicit cause (`raise ... from cause`), or of
    the `reason` that it wraps, as `urllib` does.
    """
    chain = list(_chain(error))
    category, row = next((found for link in chain if (found := _judge(link, matrix))), (_C.PYTHON, matrix[_C.PYTHON]))
    hint = next((seconds for link in chain if (seconds := _hint_s(link, now)) is not None), None)
    return Classified(category, row, hint)


def _hint_s(error: BaseException, now: datetime | None) -> float | None:
    if is_a(error, WrappedError):
        return error.context.retry_after_s
    if is_a(error, CircuitOpenError):
        return error.retry_after_s or None
    return retry_after_s(error, now)


def _judge(error: BaseException, matrix: Mapping[ErrorCategory, Row]) -> tuple[ErrorCategory, Row] | None:
    for user_rule in _user_rules:
        chosen = _ask_user(user_rule, error)
        if chosen is not None:
            return chosen, matrix[chosen]
    if is_a(error, WrappedError):
        return error.category, matrix[error.category]
    if is_a(error, CircuitOpenError):
        return _C.CONNECTION, matrix[_C.CONNECTION]
    if is_a(error, PermanentError):
        row = matrix[_C.INVALID_REQUEST]
        return _C.INVALID_REQUEST, row if not row.transient else MATRIX[_C.INVALID_REQUEST]
    if is_a(error, TransientError):
        return _transient(error, matrix)
    found = _by_evidence(error)
    return None if found is None else (found, matrix[found])


def _transient(error: BaseException, matrix: Mapping[ErrorCategory, Row]) -> tuple[ErrorCategory, Row]:
    """The task's own word: the kind may be read off the error or its cause, but not that it is transient."""
    for link in _chain(error):
        found = _by_evidence(link)
        if found is not None and matrix[found].transient:
            return found, matrix[found]
    row = matrix[_C.CONNECTION]
    return _C.CONNECTION, row if row.transient else MATRIX[_C.CONNECTION]


def _ask_user(user_rule: UserRule, error: BaseException) -> ErrorCategory | None:
    try:
        found = user_rule(error)
        return None if found is None else ErrorCategory(found)
    except Exception as trouble:  # noqa: BLE001  a faulty rule costs its answer, not the task
        # no traceback: its chain would show the message of the very error that is looked at, secrets included
        logger.warning(
            "celeriac: the rule %r failed on a %s (%s): it is passed over",
            peek(user_rule, "__qualname__") or user_rule, type_name(error), describe(trouble),
        )  # fmt: skip
        return None


def _by_evidence(error: BaseException) -> ErrorCategory | None:
    for ask in IN_ORDER:
        try:
            found = ask(error)
        except Exception:  # noqa: BLE001, S112  a hostile exception: what cannot be read is no evidence
            continue
        if found is not None:
            return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it says caused it, nearest first; each once, and not for ever."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < CAUSES_LIMIT:
        seen.add(id(link))
        yield link
        link = _cause(link)


def _cause(error: BaseException) -> BaseException | None:
    for attribute in ("__cause__", "reason"):
        cause = peek(error, attribute)
        if is_a(cause, BaseException) and not _is_printed_traceback(cause):
            return cause
    return None


def _is_printed_traceback(error: BaseException) -> bool:
    """What a pool puts in the place of the cause when an error leaves its process: text, source lines among it."""
    return any(name in ("RemoteTraceback", "_RemoteTraceback") for _, name in lineage(error))
