"""From an exception to its category: a registry of rules, most specific first.

Order: user rules, exception type by name along its MRO, HTTP status found on the exception or its `.response`,
errno, built-in types, message patterns. Client libraries are recognised by names, never imported.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from resilience.errors.taxonomy import (
    MATRIX,
    CircuitOpenError,
    ErrorCategory,
    PermanentError,
    Row,
    TransientError,
)

_C = ErrorCategory


@dataclass(frozen=True)
class Classified:
    """An error's category, its row of the matrix, and the server's own hint when to come back (seconds)."""

    category: ErrorCategory
    row: Row
    retry_after_s: float | None = None


UserRule = Callable[[BaseException], "ErrorCategory | None"]
_user_rules: list[UserRule] = []


def rule(function: UserRule) -> UserRule:
    """Decorator: `function(error)` returns a category, or None to pass. The latest added rule is asked first."""
    _user_rules.insert(0, function)
    return function


def classify(error: BaseException, now: datetime | None = None) -> Classified:
    """The category of `error` with its row. `now` serves a Retry-After that is a date."""
    category = _category(error)
    return Classified(category, MATRIX[category], retry_after_s(error, now))


def _category(error: BaseException) -> ErrorCategory:
    for user_rule in _user_rules:
        found = user_rule(error)
        if found is not None:
            return found
    for ask in (_by_type_name, _by_status, _by_errno, _by_type, _by_message):
        found = ask(error)
        if found is not None:
            return found
    return _C.SYSTEM if isinstance(error, (MemoryError, SystemError)) else _C.PYTHON


# (top-level module, class name) -> category; "" matches any module.
_TYPE_NAMES: dict[tuple[str, str], ErrorCategory] = {
    ("httpx", "TimeoutException"): _C.TIMEOUT,
    ("httpx", "ConnectError"): _C.CONNECTION,
    ("httpx", "NetworkError"): _C.CONNECTION,
    ("httpx", "ProtocolError"): _C.COMMUNICATION,
    ("httpx", "DecodingError"): _C.COMMUNICATION,
    ("requests", "Timeout"): _C.TIMEOUT,
    ("requests", "ConnectionError"): _C.CONNECTION,
    ("requests", "ChunkedEncodingError"): _C.COMMUNICATION,
    ("urllib3", "TimeoutError"): _C.TIMEOUT,
    ("urllib3", "NewConnectionError"): _C.CONNECTION,
    ("urllib3", "ProtocolError"): _C.COMMUNICATION,
    ("redis", "TimeoutError"): _C.TIMEOUT,
    ("redis", "ConnectionError"): _C.CONNECTION,
    ("redis", "OutOfMemoryError"): _C.RESOURCE,
    ("kombu", "OperationalError"): _C.CONNECTION,
    ("openai", "APITimeoutError"): _C.TIMEOUT,
    ("openai", "APIConnectionError"): _C.CONNECTION,
    ("openai", "RateLimitError"): _C.RATE_LIMIT,
    ("openai", "AuthenticationError"): _C.AUTH,
    ("botocore", "EndpointConnectionError"): _C.CONNECTION,
    ("botocore", "ReadTimeoutError"): _C.TIMEOUT,
    ("celery", "SoftTimeLimitExceeded"): _C.TIMEOUT,
    ("celery", "TimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "SoftTimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "TimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "WorkerLostError"): _C.COMMUNICATION,
}


def _by_type_name(error: BaseException) -> ErrorCategory | None:
    for cls in type(error).__mro__:
        found = _TYPE_NAMES.get((cls.__module__.partition(".")[0], cls.__name__))
        if found is not None:
            return found
    return None


_STATUS: dict[int, ErrorCategory] = {
    400: _C.INVALID_REQUEST,
    401: _C.AUTH,
    403: _C.AUTH,
    404: _C.NOT_FOUND,
    408: _C.TIMEOUT,
    422: _C.INVALID_REQUEST,
    429: _C.RATE_LIMIT,
    504: _C.TIMEOUT,
}


def _by_status(error: BaseException) -> ErrorCategory | None:
    status = _status_of(error)
    if status is None:
        return None
    return _STATUS.get(status, _C.SERVER if 500 <= status <= 599 else None)


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for holder in (error, response):
        for attribute in ("status_code", "status", "http_status"):
            value = getattr(holder, attribute, None)
            if isinstance(value, int) and 100 <= value <= 599:
                return value
    if isinstance(response, dict):  # botocore
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(value, int):
            return value
    return None


_CONNECTION_ERRNOS = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNABORTED,
})  # fmt: skip
_RESOURCE_ERRNOS = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})


def _by_errno(error: BaseException) -> ErrorCategory | None:
    number = getattr(error, "errno", None)
    if number in _CONNECTION_ERRNOS:
        return _C.CONNECTION
    if number in _RESOURCE_ERRNOS:
        return _C.RESOURCE
    return _C.TIMEOUT if number == errno.ETIMEDOUT else None


def _by_type(error: BaseException) -> ErrorCategory | None:
    match error:
        case CircuitOpenError():
            return _C.CONNECTION
        case PermanentError():
            return _C.INVALID_REQUEST
        case TransientError() | ConnectionError():
            return _C.CONNECTION
        case TimeoutError():
            return _C.TIMEOUT
        case MemoryError():
            return _C.RESOURCE
        case _:
            return None


_PATTERNS: tuple[tuple[re.Pattern[str], ErrorCategory], ...] = (
    (re.compile(r"rate.?limit|too many requests", re.IGNORECASE), _C.RATE_LIMIT),
    (re.compile(r"timed? ?out|deadline exceeded", re.IGNORECASE), _C.TIMEOUT),
    (re.compile(r"invalid api key|unauthorized|authentication failed", re.IGNORECASE), _C.AUTH),
    (re.compile(r"connection (?:refused|reset|aborted|closed)", re.IGNORECASE), _C.CONNECTION),
    (re.compile(r"service unavailable|bad gateway|internal server error", re.IGNORECASE), _C.SERVER),
    (re.compile(r"malformed|broken pipe", re.IGNORECASE), _C.COMMUNICATION),
)


def _by_message(error: BaseException) -> ErrorCategory | None:
    try:
        text = str(error)[:2000]
    except Exception:  # noqa: BLE001  an exception whose __str__ raises has no message to read
        return None
    for pattern, category in _PATTERNS:
        if pattern.search(text):
            return category
    return None


def retry_after_s(error: BaseException, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header on the error's response: a number, or a date when `now` is given."""
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None)
    get = getattr(headers, "get", None)
    value = get("retry-after") or get("Retry-After") if callable(get) else None
    if not isinstance(value, (str, int, float)):
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(str(value)) - now).total_seconds()) if now else None
    except (TypeError, ValueError):
        return None
