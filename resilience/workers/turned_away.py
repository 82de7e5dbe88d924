"""A task that found its worker's resource gone: its message goes to another worker, and no retry is spent.

The message remembers how often that happened, and since when. One that was turned away by many workers for a long
time fails like any other: it must not circle for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery.exceptions import Ignore, Reject

from resilience.delivery.broker import BROKER_ERRORS
from resilience.delivery.deaths import mark_requeued
from resilience.delivery.envelope import is_owned, rewritten
from resilience.delivery.starts import held_of
from signals.redact import describe

HEADER = "celeriac-not-ready"
"""[how often it was turned away, since when]: wall-clock seconds, as Celery's own `expires`."""

ENOUGH = 8
"""So many workers must have turned a task away, besides the time that must have passed, before it fails."""


class TurnedAway(Reject):
    """Carries the word from where the code ran to the main process, which puts the message back."""


class SentAgain(Ignore):
    """The same where the message cannot be put back with a note on it: another one was sent in its place."""


def turn_away(task: Any, request: Any, error: Exception, patience_s: float) -> None:
    """Have another worker run it: raises TurnedAway or SentAgain. Returns when it was turned away long enough."""
    times, since = told(request.headers)
    if times >= ENOUGH and time.time() - since >= patience_s:
        return
    why = describe(error)
    if task.acks_late and is_owned((request.properties or {}).get("delivery_tag")):  # then a note can be put on it
        raise TurnedAway(why, requeue=True) from error
    headers = {**(request.headers or {}), HEADER: [times + 1, since]}
    try:
        task.signature_from_request(request, headers=headers).apply_async()
    except BROKER_ERRORS as trouble:
        if task.acks_late:
            raise Reject(describe(trouble), requeue=True) from error
        return  # it was acknowledged before it began, so it cannot go back: it fails, and says why
    raise SentAgain(why) from error


def told(headers: Mapping[str, Any] | None) -> tuple[int, float]:
    """How often a message was turned away, and since when; (0, now) when it never was."""
    value = (headers or {}).get(HEADER)
    with suppress(TypeError, ValueError, OverflowError):
        times, since = value  # type: ignore[misc]
        if math.isfinite(since):
            return max(0, int(times)), min(float(since), time.time())  # by a clock that is ahead it would circle on
    return 0, time.time()


def put_back(message: Any) -> bool:
    """To the front of its queue, with one more note on it. False if it is not held by a transport of ours."""
    held = held_of(message)
    if held is None:
        return False
    held.give_back(message.delivery_tag, lambda raw: rewritten(raw, _note))
    message.channel.qos.forget(message.delivery_tag)
    return True


def _note(payload: Any) -> None:
    mark_requeued(payload)
    times, since = told(payload["headers"])
    payload["headers"][HEADER] = [times + 1, since]
