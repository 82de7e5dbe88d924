"""What one exception says of its kind: rules over its type, codes and words, most specific first.

Client libraries are recognised by names, never imported. A rule may raise on a hostile exception: whoever asks takes
that for no evidence.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Callable

from resilience.errors.inspection import lineage, part, peek
from resilience.errors.taxonomy import ErrorCategory

_C = ErrorCategory

Evidence = Callable[[BaseException], "ErrorCategory | None"]


# -- codes that services give, which say more than the status or the type that comes with them ----------------------

_SERVICE_CODES: dict[str, ErrorCategory] = {
    # AWS answers most of these with status 400, which alone would say that the request is wrong.
    "ProvisionedThroughputExceededException": _C.RATE_LIMIT,
    "RequestLimitExceeded": _C.RATE_LIMIT,
    "SlowDown": _C.RATE_LIMIT,
    "Throttling": _C.RATE_LIMIT,
    "ThrottlingException": _C.RATE_LIMIT,
    "ThrottledException": _C.RATE_LIMIT,
    "TooManyRequestsException": _C.RATE_LIMIT,
    "RequestTimeout": _C.TIMEOUT,
    "RequestTimeoutException": _C.TIMEOUT,
    "ModelTimeoutException": _C.TIMEOUT,
    "ExpiredToken": _C.AUTH,
    "ExpiredTokenException": _C.AUTH,
    "InvalidClientTokenId": _C.AUTH,
    "UnrecognizedClientException": _C.AUTH,
    # OpenAI answers 429 when the money is spent: no waiting helps.
    "insufficient_quota": _C.AUTH,
}


def by_service_code(error: BaseException) -> ErrorCategory | None:
    for code in (part(part(peek(error, "response"), "Error"), "Code"), peek(error, "code")):
        if isinstance(code, str) and code in _SERVICE_CODES:
            return _SERVICE_CODES[code]
    return None


# -- the type, by its name -----------------------------------------------------------------------------------------

_TYPE_NAMES: dict[tuple[str, str], ErrorCategory] = {
    ("httpx", "TimeoutException"): _C.TIMEOUT,
    ("httpx", "NetworkError"): _C.CONNECTION,
    ("httpx", "ProxyError"): _C.CONNECTION,
    ("httpx", "ProtocolError"): _C.COMMUNICATION,
    ("httpx", "DecodingError"): _C.COMMUNICATION,
    ("httpx", "UnsupportedProtocol"): _C.INVALID_REQUEST,
    ("httpx", "LocalProtocolError"): _C.INVALID_REQUEST,
    ("httpx", "InvalidURL"): _C.INVALID_REQUEST,
    ("httpcore", "TimeoutException"): _C.TIMEOUT,
    ("httpcore", "NetworkError"): _C.CONNECTION,
    ("httpcore", "ProtocolError"): _C.COMMUNICATION,
    ("requests", "ConnectTimeout"): _C.TIMEOUT,  # before ConnectionError, its other base
    ("requests", "Timeout"): _C.TIMEOUT,
    ("requests", "ConnectionError"): _C.CONNECTION,
    ("requests", "ChunkedEncodingError"): _C.COMMUNICATION,
    ("requests", "ContentDecodingError"): _C.COMMUNICATION,
    ("requests", "RetryError"): _C.SERVER,  # its session asked again until it had enough
    ("requests", "InvalidURL"): _C.INVALID_REQUEST,
    ("requests", "MissingSchema"): _C.INVALID_REQUEST,
    ("requests", "InvalidSchema"): _C.INVALID_REQUEST,
    ("urllib3", "NewConnectionError"): _C.CONNECTION,  # before TimeoutError, its base
    ("urllib3", "NameResolutionError"): _C.CONNECTION,
    ("urllib3", "ProxyError"): _C.CONNECTION,
    ("urllib3", "SSLError"): _C.CONNECTION,
    ("urllib3", "TimeoutError"): _C.TIMEOUT,
    ("urllib3", "ResponseError"): _C.SERVER,
    ("urllib3", "ProtocolError"): _C.COMMUNICATION,
    ("urllib3", "DecodeError"): _C.COMMUNICATION,
    ("http", "RemoteDisconnected"): _C.CONNECTION,
    ("http", "HTTPException"): _C.COMMUNICATION,
    ("aiohttp", "ServerTimeoutError"): _C.TIMEOUT,
    ("aiohttp", "ClientConnectionError"): _C.CONNECTION,
    ("aiohttp", "ClientPayloadError"): _C.COMMUNICATION,
    ("redis", "TimeoutError"): _C.TIMEOUT,
    ("redis", "AuthenticationError"): _C.AUTH,  # a ConnectionError to redis-py, yet no retry mends it
    ("redis", "AuthorizationError"): _C.AUTH,
    ("redis", "NoPermissionError"): _C.AUTH,
    ("redis", "MaxConnectionsError"): _C.RESOURCE,
    ("redis", "ConnectionError"): _C.CONNECTION,
    ("redis", "ReadOnlyError"): _C.CONNECTION,  # a failover is under way: this one is a replica now
    ("redis", "MasterDownError"): _C.CONNECTION,
    ("redis", "ClusterDownError"): _C.CONNECTION,
    ("redis", "TryAgainError"): _C.CONNECTION,
    ("redis", "OutOfMemoryError"): _C.RESOURCE,
    ("redis", "InvalidResponse"): _C.COMMUNICATION,
    ("amqp", "AccessRefused"): _C.AUTH,
    ("amqp", "NotAllowed"): _C.AUTH,
    ("amqp", "NotFound"): _C.NOT_FOUND,
    ("amqp", "ResourceError"): _C.RESOURCE,
    ("amqp", "ConnectionError"): _C.CONNECTION,
    ("amqp", "RecoverableChannelError"): _C.CONNECTION,
    ("kombu", "OperationalError"): _C.CONNECTION,
    ("kombu", "DecodeError"): _C.COMMUNICATION,
    ("kombu", "LimitExceeded"): _C.RESOURCE,
    ("openai", "APITimeoutError"): _C.TIMEOUT,
    ("openai", "APIConnectionError"): _C.CONNECTION,
    ("openai", "RateLimitError"): _C.RATE_LIMIT,
    ("openai", "AuthenticationError"): _C.AUTH,
    ("anthropic", "APITimeoutError"): _C.TIMEOUT,
    ("anthropic", "APIConnectionError"): _C.CONNECTION,
    ("botocore", "NoCredentialsError"): _C.AUTH,
    ("botocore", "PartialCredentialsError"): _C.AUTH,
    ("botocore", "ConnectTimeoutError"): _C.TIMEOUT,
    ("botocore", "ReadTimeoutError"): _C.TIMEOUT,
    ("botocore", "ConnectionError"): _C.CONNECTION,
    ("botocore", "EndpointConnectionError"): _C.CONNECTION,
    ("botocore", "HTTPClientError"): _C.CONNECTION,
    ("botocore", "ParamValidationError"): _C.INVALID_REQUEST,
    ("asyncio", "TimeoutError"): _C.TIMEOUT,  # Python 3.10: not yet the built-in one
    ("asyncio", "IncompleteReadError"): _C.COMMUNICATION,
    ("concurrent", "TimeoutError"): _C.TIMEOUT,
    ("concurrent", "BrokenExecutor"): _C.COMMUNICATION,
    ("celery", "SoftTimeLimitExceeded"): _C.TIMEOUT,
    ("celery", "TimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "SoftTimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "TimeLimitExceeded"): _C.TIMEOUT,
    ("billiard", "WorkerLostError"): _C.COMMUNICATION,
}


def by_type_name(error: BaseException) -> ErrorCategory | None:
    return next((_TYPE_NAMES[names] for names in lineage(error) if names in _TYPE_NAMES), None)


# -- HTTP status ---------------------------------------------------------------------------------------------------

_STATUS: dict[int, ErrorCategory] = {
    401: _C.AUTH,
    402: _C.AUTH,
    403: _C.AUTH,
    404: _C.NOT_FOUND,
    407: _C.AUTH,
    408: _C.TIMEOUT,
    410: _C.NOT_FOUND,
    429: _C.RATE_LIMIT,
    504: _C.TIMEOUT,
}
_STATUS_CLASS = {4: _C.INVALID_REQUEST, 5: _C.SERVER}  # what is unknown is read as x00 (RFC 9110, 15)


def by_status(error: BaseException) -> ErrorCategory | None:
    status = _status_of(error)
    return None if status is None else _STATUS.get(status, _STATUS_CLASS.get(status // 100))


def _status_of(error: BaseException) -> int | None:
    response = peek(error, "response")
    for holder in (error, response):
        for attribute in ("status_code", "status", "http_status"):
            value = peek(holder, attribute)
            if isinstance(value, int) and 100 <= value <= 599:
                return value
    value = part(part(response, "ResponseMetadata"), "HTTPStatusCode")  # botocore
    if value is None and any(module == "google" for module, _ in lineage(error)):
        value = peek(error, "code")  # elsewhere a `code` may be anything, as that of SMTP is
    return value if isinstance(value, int) else None


# -- errno, built-in types -----------------------------------------------------------------------------------------

_CONNECTION_ERRNOS = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNABORTED,
    errno.ENETDOWN, errno.ENOTCONN, errno.EHOSTDOWN,
})  # fmt: skip
_RESOURCE_ERRNOS = frozenset({
    errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS, errno.EADDRNOTAVAIL,
})  # fmt: skip


def by_errno(error: BaseException) -> ErrorCategory | None:
    number = peek(error, "errno")
    if not isinstance(number, int) or issubclass(type(error), (socket.gaierror, socket.herror, ssl.SSLError)):
        return None  # those count their errors in numbers of their own
    if number in _CONNECTION_ERRNOS:
        return _C.CONNECTION
    if number in _RESOURCE_ERRNOS:
        return _C.RESOURCE
    return _C.TIMEOUT if number == errno.ETIMEDOUT else None


_TYPES: tuple[tuple[tuple[type[BaseException], ...], ErrorCategory], ...] = (
    ((ConnectionError, socket.gaierror, socket.herror, ssl.SSLError), _C.CONNECTION),
    ((TimeoutError,), _C.TIMEOUT),
    ((EOFError,), _C.COMMUNICATION),
    ((MemoryError,), _C.RESOURCE),
    ((SystemError,), _C.SYSTEM),
)

# Mistakes in code: their messages quote names and values, so `unexpected keyword argument 'timeout'` is no timeout.
_MISTAKES = frozenset({
    ArithmeticError, AssertionError, AttributeError, ImportError, IndexError, KeyError, LookupError,
    ModuleNotFoundError, NameError, NotImplementedError, RecursionError, SyntaxError, TypeError, UnboundLocalError,
    UnicodeDecodeError, UnicodeEncodeError, ZeroDivisionError,
})  # fmt: skip


def by_type(error: BaseException) -> ErrorCategory | None:
    kind = type(error)  # `isinstance` and `match` believe a `__class__` that lies
    for types, category in _TYPES:
        if issubclass(kind, types):
            return category
    return _C.PYTHON if kind in _MISTAKES else None


# -- words ---------------------------------------------------------------------------------------------------------

_WORDS_LIMIT = 2_000
# For text in small letters: with IGNORECASE a long message takes nine times as long.
_PATTERNS: tuple[tuple[re.Pattern[str], ErrorCategory], ...] = (
    (re.compile(r"rate.?limit|too many requests|quota exceeded"), _C.RATE_LIMIT),
    (re.compile(r"timed? ?out|deadline exceeded"), _C.TIMEOUT),
    (re.compile(r"(?:invalid|incorrect) api key|unauthorized|authentication failed"), _C.AUTH),
    (re.compile(r"connection (?:refused|reset|aborted|closed|error)|not resolve"), _C.CONNECTION),
    (re.compile(r"service unavailable|bad gateway|internal server error|overloaded"), _C.SERVER),
    (re.compile(r"malformed|broken pipe"), _C.COMMUNICATION),
)


def by_message(error: BaseException) -> ErrorCategory | None:
    text = str(error)[:_WORDS_LIMIT].lower()
    return next((category for pattern, category in _PATTERNS if pattern.search(text)), None)


IN_ORDER: tuple[Evidence, ...] = (by_service_code, by_type_name, by_status, by_errno, by_type, by_message)
