"""The moment after which a task is worthless: written into its message once, when it is first sent. Pure.

It is wall-clock time, as Celery's own `expires` and `eta` are: hosts whose clocks disagree disagree about it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

DEADLINE_HEADER = "celeriac-deadline"


def deadline_at(eta: str | None, now_s: float, deadline_s: float) -> float:
    """Seconds since the epoch: `deadline_s` after the task is due, which is its ISO 8601 `eta`, else now."""
    due_s = now_s
    if eta:
        try:
            due_s = max(now_s, datetime.fromisoformat(eta.replace("Z", "+00:00")).timestamp())
        except ValueError:
            due_s = now_s  # not a date that Celery wrote; the worker judges it
    return due_s + deadline_s


def left_s(headers: Mapping[str, Any] | None, now_s: float) -> float | None:
    """Seconds until the deadline in a message's headers, negative when it is over; None without a usable one."""
    value = (headers or {}).get(DEADLINE_HEADER)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value - now_s if math.isfinite(value) else None
    except OverflowError:  # a whole number larger than any time
        return None
