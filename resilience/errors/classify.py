"""From an exception to its category: a registry of rules, most specific first.

Order: user rules, our own types, exception type by name along its MRO, a cloud's error code, HTTP status found on the
exception or its `.response`, errno, built-in types, message patterns. Client libraries are recognised by names, never
imported. Whatever an exception's own attributes do, classifying it never raises.
"""

from __future__ import annotations

import errno
import logging
import math
import re
import socket
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


def classify(error: BaseException, now: datetime | None = None) -> Classified:
    """The category of `error` with its row. `now` serves a Retry-After that is a date."""
    category = _category(error)
    return Classified(category, MATRIX[category], retry_after_s(error, now))


def _category(error: BaseException) -> ErrorCategory:
    for user_rule in _user_rules:
        found = _ask_user(user_rule, error)
        if found is not None:
            return found
    match error:
        case CircuitOpenError():
            return _C.CONNECTION
        case PermanentError():
            return _C.INVALID_REQUEST
        case TransientError():  # the task's own word: the kind may be read off it, not that it is transient
            found = _by_evidence(error)
            return found if MATRIX[found].transient else _C.CONNECTION
        case _:
            return _by_evidence(error)


def _ask_user(user_rule: UserRule, error: BaseException) -> ErrorCategory | None:
    try:
        found = user_rule(error)
        return None if found is None else ErrorCategory(found)
    except Exception:
        logger.exception("celeriac: the rule %r failed on a %s; it is passed over", user_rule, type(error).__name__)
        return None


def _by_evidence(error: BaseException) -> ErrorCategory:
    for ask in (_by_type_name, _by_cloud_code, _by_status, _by_errno, _by_type, _by_message):
        found = ask(error)
        if found is not None:
            return found
    return _C.PYTHON


def _peek(holder: object, attribute: str) -> Any:
    """An attribute of somebody else's object, None when reading it raises, as properties of clients may."""
    try:
        return getattr(holder, attribute, None)
    except Exception:  # noqa: BLE001  whatever it is, it is not evidence
        return None


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
    ("redis", "AuthenticationError"): _C.AUTH,  # a ConnectionError to redis-py, yet no retry mends it
    ("redis", "AuthorizationError"): _C.AUTH,
    ("redis", "NoPermissionError"): _C.AUTH,
    ("redis", "OutOfMemoryError"): _C.RESOURCE,
    ("asyncio", "TimeoutError"): _C.TIMEOUT,  # Python 3.10: not yet the built-in one
    ("concurrent", "TimeoutError"): _C.TIMEOUT,
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


# AWS answers most of these with status 400, which alone would say that the request is wrong.
_CLOUD_CODES: dict[str, ErrorCategory] = {
    "ProvisionedThroughputExceededException": _C.RATE_LIMIT,
    "RequestLimitExceeded": _C.RATE_LIMIT,
    "SlowDown": _C.RATE_LIMIT,
    "Throttling": _C.RATE_LIMIT,
    "ThrottlingException": _C.RATE_LIMIT,
    "TooManyRequestsException": _C.RATE_LIMIT,
    "RequestTimeout": _C.TIMEOUT,
    "RequestTimeoutException": _C.TIMEOUT,
    "ExpiredToken": _C.AUTH,
    "ExpiredTokenException": _C.AUTH,
    "InvalidClientTokenId": _C.AUTH,
    "UnrecognizedClientException": _C.AUTH,
}


def _by_cloud_code(error: BaseException) -> ErrorCategory | None:
    code = _part(_part(_peek(error, "response"), "Error"), "Code")  # botocore's ClientError
    return _CLOUD_CODES.get(code) if isinstance(code, str) else None


def _part(holder: Any, key: str) -> Any:
    return holder.get(key) if isinstance(holder, dict) else None


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
    response = _peek(error, "response")
    for holder in (error, response):
        for attribute in ("status_code", "status", "http_status"):
            value = _peek(holder, attribute)
            if isinstance(value, int) and 100 <= value <= 599:
                return value
    value = _part(_part(response, "ResponseMetadata"), "HTTPStatusCode")  # botocore
    return value if isinstance(value, int) else None


_CONNECTION_ERRNOS = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNABORTED,
})  # fmt: skip
_RESOURCE_ERRNOS = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})


# Mistakes in code: their messages quote names and values, so `unexpected keyword argument 'timeout'` is no timeout.
_MISTAKES = frozenset({
    ArithmeticError, AssertionError, AttributeError, ImportError, IndexError, KeyError, LookupError,
    ModuleNotFoundError, NameError, NotImplementedError, SyntaxError, TypeError, UnboundLocalError, ZeroDivisionError,
})  # fmt: skip


def _by_errno(error: BaseException) -> ErrorCategory | None:
    number = _peek(error, "errno")
    if not isinstance(number, int):
        return None
    if number in _CONNECTION_ERRNOS:
        return _C.CONNECTION
    if number in _RESOURCE_ERRNOS:
        return _C.RESOURCE
    return _C.TIMEOUT if number == errno.ETIMEDOUT else None


def _by_type(error: BaseException) -> ErrorCategory | None:
    match error:
        case ConnectionError() | socket.gaierror():
            return _C.CONNECTION
        case TimeoutError():
            return _C.TIMEOUT
        case MemoryError():
            return _C.RESOURCE
        case SystemError():
            return _C.SYSTEM
        case _:
            return _C.PYTHON if type(error) in _MISTAKES else None


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
    """Seconds from a Retry-After header on the error's response, None without a usable one.

    A date is measured against `now`, else against the response's own Date: then no clock of ours has a say.
    """
    response = _peek(error, "response")
    headers = _peek(response, "headers") or _part(_part(response, "ResponseMetadata"), "HTTPHeaders")
    headers = headers or _peek(error, "headers")
    text = _header(headers, "Retry-After")
    try:
        seconds = float(text)
    except ValueError:
        then, base = _date(text), now or _date(_header(headers, "Date"))
        if then is None or base is None:
            return None
        try:
            seconds = (then - base).total_seconds()
        except TypeError:  # one of them names no time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _header(headers: Any, name: str) -> str:
    get = _peek(headers, "get")
    if not callable(get):
        return ""
    for spelling in (name, name.lower()):
        try:
            value = get(spelling)
        except Exception:  # noqa: BLE001  an object that only looks like headers
            return ""
        if isinstance(value, (str, int, float)):
            return str(value)
    return ""


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except (TypeError, ValueError):
        return None
