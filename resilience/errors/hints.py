"""When a server says to come back: the Retry-After of an error's response. Pure."""

from __future__ import annotations

import math
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from resilience.errors.inspection import Look, part


def retry_after_s(error: BaseException, now: datetime | None = None, look: Look | None = None) -> float | None:
    """Seconds from a Retry-After header on the error's response, None without a usable one (RFC 9110, 10.2.3).

    A date is measured against `now`, else against the response's own Date: then no clock of ours has a say.
    """
    try:
        return _retry_after_s(error, now, look or Look())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  an object that only looks like a response gives no hint
        return None


def _retry_after_s(error: BaseException, now: datetime | None, look: Look) -> float | None:
    get = look.at(_headers(error, look), "get")
    milliseconds = _number(_header(get, "retry-after-ms"))  # OpenAI and Azure, finer than whole seconds
    if milliseconds is not None:
        return milliseconds / 1000
    text = _header(get, "Retry-After")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    then, base = _date(text), now or _date(_header(get, "Date"))
    if then is None or base is None or (then.tzinfo is None) != (base.tzinfo is None):
        return None
    return max(0.0, (then - base).total_seconds())


def _headers(error: BaseException, look: Look) -> Any:
    response = look.at(error, "response")
    found = look.at(response, "headers") or part(part(response, "ResponseMetadata"), "HTTPHeaders")
    return found or look.at(error, "headers")


def _header(get: Any, name: str) -> str:
    if not callable(get):
        return ""
    for spelling in (name, name.lower()):
        value = get(spelling)
        if isinstance(value, (str, int, float)):
            return str(value)
    return ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _date(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except (TypeError, ValueError):
        return None
