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

from resilience.errors.databases import FAMILIES, by_database
from resilience.errors.inspection import Look
from resilience.errors.replies import by_grpc_code, by_service_code, by_smtp_code, by_status
from resilience.errors.taxonomy import ErrorCategory
from resilience.errors.type_names import TYPE_NAMES

_C = ErrorCategory

Evidence = Callable[[BaseException, Look], "ErrorCategory | None"]


_LIBRARIES: dict[str, Evidence] = {
    **dict.fromkeys(FAMILIES, by_database),
    **dict.fromkeys(("grpc", "grpclib"), by_grpc_code),
    **dict.fromkeys(("smtplib", "aiosmtplib"), by_smtp_code),
}


def by_library(error: BaseException, look: Look) -> ErrorCategory | None:
    """Libraries that put the kind into a code of their own."""
    for module, _ in look.lineage(error):
        if module in _LIBRARIES:
            return _LIBRARIES[module](error, look)
    return None


def by_type_name(error: BaseException, look: Look) -> ErrorCategory | None:
    return next((TYPE_NAMES[names] for names in look.lineage(error) if names in TYPE_NAMES), None)


# -- errno, built-in types -----------------------------------------------------------------------------------------

_CONNECTION_ERRNOS = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNABORTED,
    errno.ENETDOWN, errno.ENOTCONN, errno.EHOSTDOWN,
})  # fmt: skip
_RESOURCE_ERRNOS = frozenset({
    errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS, errno.EADDRNOTAVAIL,
})  # fmt: skip


def by_errno(error: BaseException, look: Look) -> ErrorCategory | None:
    number = look.at(error, "errno")
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


def by_type(error: BaseException, _: Look) -> ErrorCategory | None:
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
    (re.compile(r"malformed|broken pipe|reading ssh protocol banner|ssh session not active"), _C.COMMUNICATION),
)


def by_message(error: BaseException, look: Look) -> ErrorCategory | None:
    text = look.text(error)[:_WORDS_LIMIT].lower()
    return next((category for pattern, category in _PATTERNS if pattern.search(text)), None)


IN_ORDER: tuple[Evidence, ...] = (
    by_service_code, by_library, by_type_name, by_status, by_errno, by_type, by_message,
)  # fmt: skip
