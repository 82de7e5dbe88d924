"""What a server answered, as its client's exception shows it: codes of cloud services, SMTP, gRPC, HTTP status."""

from __future__ import annotations

from itertools import islice
from typing import Any

from resilience.errors.inspection import Look, part
from resilience.errors.taxonomy import ErrorCategory

_C = ErrorCategory

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


def by_service_code(error: BaseException, look: Look) -> ErrorCategory | None:
    for code in (part(part(look.at(error, "response"), "Error"), "Code"), look.at(error, "code")):
        if isinstance(code, str) and code in _SERVICE_CODES:
            return _SERVICE_CODES[code]
    return None


# -- gRPC ----------------------------------------------------------------------------------------------------------

_GRPC: dict[str, ErrorCategory] = {
    "CANCELLED": _C.COMMUNICATION,
    "UNKNOWN": _C.SERVER,
    "INVALID_ARGUMENT": _C.INVALID_REQUEST,
    "DEADLINE_EXCEEDED": _C.TIMEOUT,
    "NOT_FOUND": _C.NOT_FOUND,
    "ALREADY_EXISTS": _C.INVALID_REQUEST,
    "PERMISSION_DENIED": _C.AUTH,
    "UNAUTHENTICATED": _C.AUTH,
    "RESOURCE_EXHAUSTED": _C.RATE_LIMIT,
    "FAILED_PRECONDITION": _C.INVALID_REQUEST,
    "ABORTED": _C.COMMUNICATION,  # two transactions met: the protocol says to try again
    "OUT_OF_RANGE": _C.INVALID_REQUEST,
    "UNIMPLEMENTED": _C.INVALID_REQUEST,
    "INTERNAL": _C.SERVER,
    "UNAVAILABLE": _C.CONNECTION,  # also what a client says that reaches nobody
    "DATA_LOSS": _C.SERVER,
}


def by_grpc_code(error: BaseException, look: Look) -> ErrorCategory | None:
    """The status of a call, from `grpc` and `grpc.aio` by `code()`, from `grpclib` by `status`."""
    families = {module for module, name in look.lineage(error) if name in ("RpcError", "GRPCError")}
    status: Any = None
    if "grpc" in families:
        code = look.at(error, "code")
        status = code() if callable(code) else None
    elif "grpclib" in families:
        status = look.at(error, "status")
    name = look.at(status, "name")
    return _GRPC.get(name) if isinstance(name, str) else None


# -- SMTP ----------------------------------------------------------------------------------------------------------

_SMTP = {421: _C.CONNECTION, 530: _C.AUTH, 534: _C.AUTH, 535: _C.AUTH, 538: _C.AUTH}
_RECIPIENTS_LIMIT = 100


def by_smtp_code(error: BaseException, look: Look) -> ErrorCategory | None:
    """4yz may pass, 5yz is final (RFC 5321, 4.2.1); 53z: who are you (RFC 4954)."""
    lineage = [(module, name) for module, name in look.lineage(error) if module in ("smtplib", "aiosmtplib")]
    names = {name for _, name in lineage}
    if "SMTPRecipientsRefused" in names:
        return _recipients(look.at(error, "recipients"))
    if "SMTPResponseException" not in names:
        return None
    found = _of_smtp(look.at(error, "smtp_code" if lineage[0][0] == "smtplib" else "code"))
    return _C.CONNECTION if "SMTPConnectError" in names and found in (None, _C.SERVER) else found


def _of_smtp(code: Any) -> ErrorCategory | None:
    if not isinstance(code, int):
        return None
    return _SMTP.get(code, {4: _C.SERVER, 5: _C.INVALID_REQUEST}.get(code // 100))


def _recipients(refused: Any) -> ErrorCategory | None:
    """Nobody took the message: it may pass only where every answer may."""
    if not isinstance(refused, dict):
        return None
    answers = islice(refused.values(), _RECIPIENTS_LIMIT)
    found = [_of_smtp(answer[0]) for answer in answers if isinstance(answer, tuple) and answer]
    final = (category for category in found if category not in (_C.SERVER, _C.CONNECTION))
    return next(final, found[0]) if found else None


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


def by_status(error: BaseException, look: Look) -> ErrorCategory | None:
    status = _status_of(error, look)
    return None if status is None else _STATUS.get(status, _STATUS_CLASS.get(status // 100))


def _status_of(error: BaseException, look: Look) -> int | None:
    response = look.at(error, "response")
    for holder in (error, response):
        for attribute in ("status_code", "status", "http_status"):
            value = look.at(holder, attribute)
            if isinstance(value, int) and 100 <= value <= 599:
                return value
    value = part(part(response, "ResponseMetadata"), "HTTPStatusCode")  # botocore
    if value is None and any(module == "google" for module, _ in look.lineage(error)):
        value = look.at(error, "code")  # elsewhere a `code` may be anything, as that of SMTP is
    return value if isinstance(value, int) else None
