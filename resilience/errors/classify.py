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

from resilience.errors.context import ErrorContext
from resilience.errors.evidence import IN_ORDER
from resilience.errors.groups import members
from resilience.errors.hints import retry_after_s
from resilience.errors.inspection import Look, is_a, peek
from resilience.errors.taxonomy import (
    MATRIX,
    CircuitOpenError,
    ErrorCategory,
    NotReadyError,
    PermanentError,
    PoolError,
    Row,
    TransientError,
)
from resilience.errors.wrapped import WrappedError
from signals.redact import describe, type_name

_C = ErrorCategory

CAUSES_LIMIT = 8
"""How far back a chain of causes is followed."""
GROUPS_LIMIT = 4
"""So many groups are opened for one error: a member's cause may be a group again, even the one that it is in."""

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
    the `reason` that it wraps, as `urllib` does. A group (`ExceptionGroup`) has that of its first member that is
    permanent, else of its first one: it may be tried again only if all of it may.
    """
    look = Look()
    found = _found(error, matrix, look)
    category, row = found or (_C.PYTHON, matrix[_C.PYTHON])
    return Classified(category, row, _hint_s(error, now, look))


def _found(error: BaseException, matrix: Mapping[ErrorCategory, Row], look: Look) -> tuple[ErrorCategory, Row] | None:
    return next((found for link in _chain(error, look) if (found := _judge(link, matrix, look))), None)


def _hint_s(error: BaseException, now: datetime | None, look: Look) -> float | None:
    for link in _chain(error, look):
        hints = [_own_hint_s(each, now, look) for each in (link, *members(link, look))]
        known = [seconds for seconds in hints if seconds is not None]
        if known:
            return max(known)
    return None


def _own_hint_s(error: BaseException, now: datetime | None, look: Look) -> float | None:
    if is_a(error, WrappedError):
        context = look.at(error, "context")
        return context.retry_after_s if is_a(context, ErrorContext) else None
    if is_a(error, CircuitOpenError):
        seconds = look.at(error, "retry_after_s")
        return (seconds or None) if is_a(seconds, float) or is_a(seconds, int) else None
    return retry_after_s(error, now, look)


def _judge(error: BaseException, matrix: Mapping[ErrorCategory, Row], look: Look) -> tuple[ErrorCategory, Row] | None:
    for user_rule in _user_rules:
        chosen = _ask_user(user_rule, error)
        if chosen is not None:
            return chosen, matrix[chosen]
    if is_a(error, PoolError) and (own := _by_own_type(error, matrix, look)):
        return own
    if (inside := members(error, look)) and look.enter(error, GROUPS_LIMIT):
        return _of_members(inside, matrix, look)
    found = _by_evidence(error, look)
    return None if found is None else (found, matrix[found])


def _by_own_type(error: PoolError, matrix: Mapping[ErrorCategory, Row], look: Look) -> tuple[ErrorCategory, Row] | None:
    if is_a(error, WrappedError):
        context = look.at(error, "context")
        return (context.category, matrix[context.category]) if is_a(context, ErrorContext) else None
    if is_a(error, CircuitOpenError):
        return _C.CONNECTION, matrix[_C.CONNECTION]
    if is_a(error, NotReadyError):
        return _C.RESOURCE, matrix[_C.RESOURCE]
    if is_a(error, PermanentError):
        row = matrix[_C.INVALID_REQUEST]
        return _C.INVALID_REQUEST, row if not row.transient else MATRIX[_C.INVALID_REQUEST]
    if is_a(error, TransientError):
        return _transient(error, matrix, look)
    return None


def _of_members(
    inside: tuple[BaseException, ...], matrix: Mapping[ErrorCategory, Row], look: Look
) -> tuple[ErrorCategory, Row]:
    found = [_found(each, matrix, look) or (_C.PYTHON, matrix[_C.PYTHON]) for each in inside]
    return next((each for each in found if not each[1].transient), found[0])


def _transient(error: BaseException, matrix: Mapping[ErrorCategory, Row], look: Look) -> tuple[ErrorCategory, Row]:
    """The task's own word: the kind may be read off the error or its cause, but not that it is transient."""
    for link in _chain(error, look):
        found = _by_evidence(link, look)
        if found is not None and matrix[found].transient:
            return found, matrix[found]
    row = matrix[_C.CONNECTION]
    return _C.CONNECTION, row if row.transient else MATRIX[_C.CONNECTION]


def _ask_user(user_rule: UserRule, error: BaseException) -> ErrorCategory | None:
    try:
        found = user_rule(error)
        return None if found is None else ErrorCategory(found)
    except KeyboardInterrupt:
        raise
    except BaseException as trouble:  # noqa: BLE001  a faulty rule costs its answer, not the task
        # no traceback: its chain would show the message of the very error that is looked at, secrets included
        logger.warning(
            "celeriac: the rule %s failed on a %s (%s): it is passed over",
            peek(user_rule, "__qualname__") or type_name(user_rule), type_name(error), describe(trouble),
        )  # fmt: skip
        return None


def _by_evidence(error: BaseException, look: Look) -> ErrorCategory | None:
    for ask in IN_ORDER:
        try:
            found = ask(error, look)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S112  a hostile exception: what cannot be read is no evidence
            continue
        if found is not None:
            return found
    return None


def _chain(error: BaseException, look: Look) -> Iterator[BaseException]:
    """The error and what it says caused it, nearest first; each once, and not for ever."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < CAUSES_LIMIT:
        seen.add(id(link))
        yield link
        link = _cause(link, look)


def _cause(error: BaseException, look: Look) -> BaseException | None:
    for attribute in ("__cause__", "reason"):
        cause = look.at(error, attribute)
        if is_a(cause, BaseException) and not _is_printed_traceback(cause, look):
            return cause
    return None


def _is_printed_traceback(error: BaseException, look: Look) -> bool:
    """What a pool puts in the place of the cause when an error leaves its process: text, source lines among it."""
    return any(name in ("RemoteTraceback", "_RemoteTraceback") for _, name in look.lineage(error))
