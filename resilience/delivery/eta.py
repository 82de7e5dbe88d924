"""When a message is due, read as Celery's worker reads it. Pure.

An `eta` is an absolute moment on the publisher's clock. Celery takes one without a zone for UTC, whatever the app's
timezone is, and so does this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware

LONGEST_ID = 255
"""Characters of a task id; Celery's own have 36. Anything longer stays Celery's business."""

SOON_S = 0.05
"""A task that is due within this time is not worth the way to Redis and back."""


@dataclass(frozen=True)
class Appointment:
    """A task that shall not run yet. `due_s` is Unix time."""

    task_id: str
    due_s: float

    @property
    def label(self) -> str:
        """As the script of a turn reads it."""
        return f"{self.due_s * 1000:.0f}:{self.task_id}"


def moment(value: Any) -> float | None:
    """Unix time of an `eta` or `expires`; None for what is no moment, which Celery then judges."""
    try:
        return float(maybe_make_aware(maybe_iso8601(value)).timestamp())
    except (AttributeError, ValueError, TypeError, OverflowError, OSError):
        return None


def appointment(fields: Mapping[str, Any], now_s: float) -> Appointment | None:
    """The appointment in a message's headers, or in the body of one of protocol 1; None if it may run, or is odd.

    A task that expired already has none: Celery discards it on receipt.
    """
    due_s = moment(fields["eta"]) if fields.get("eta") else None
    if due_s is None or due_s - now_s < SOON_S:
        return None
    if fields.get("expires") is not None:
        expires_s = moment(fields["expires"])
        if expires_s is None or expires_s <= now_s:
            return None
    return appointment_at(due_s, fields)


def appointment_at(due_s: float, fields: Mapping[str, Any]) -> Appointment | None:
    """The same for a given Unix time; None if the task has no id that Redis can keep."""
    task_id = fields.get("id")
    if not isinstance(task_id, str) or not 0 < len(task_id) <= LONGEST_ID or not is_text(task_id):
        return None
    return Appointment(task_id, due_s)


def is_text(value: str) -> bool:
    """Whether Redis can be told it: JSON can write half of a character, which no bytes stand for."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def is_due(fields: Mapping[str, Any], now_s: float) -> bool:
    """Whether the task would run at once; also True without an `eta`, False with one that is no moment."""
    eta = fields.get("eta")
    if not eta:
        return True
    due_s = moment(eta)
    return due_s is not None and due_s - now_s < SOON_S
