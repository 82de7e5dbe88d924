"""Deaths of workers as a message carries them: who may have killed its worker runs alone once, then is set aside.

Until then it goes first: it had begun before all that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from resilience.delivery.envelope import mark_redelivered, rewritten

DEATHS = "celeriac-deaths"
"""Header: how many workers died while this task was running in them."""

FIRST = "celeriac-first"
"""Header: the attempt (Celery's `retries`) that begins before what a worker took and has not begun: its former run was
cut short by a death."""

ALONE = "alone"
"""Where a message goes that must run while nothing else does, in the words of turn.lua."""


@dataclass(frozen=True)
class Suspect:
    """A message whose task was running in a worker that died. `key` names this claim of it, once and for all."""

    source: str
    raw: bytes
    key: str
    deaths: int
    task: str
    task_id: str


Condemn = Callable[[Suspect], bool]
"""Takes a message that killed its worker when it ran alone; True when it is kept elsewhere and may go."""


def blamed(raw: bytes) -> tuple[bytes, int, str, str]:
    """The message with one more death, how many that makes, its task and its id. A mangled one is never blamed."""
    try:
        payload = loads(bytes_to_str(raw))
        headers = payload["headers"]
        deaths = count_of(headers) + 1
        headers[DEATHS], headers[FIRST] = deaths, _attempt(headers)
        return str(dumps(payload)).encode(), deaths, str(headers.get("task")), str(headers.get("id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw, 0, "", ""


def tried_again(raw: bytes) -> bytes:
    """The message for the next attempt of a task whose child died while it ran."""
    return rewritten(raw, _count_attempt)


def _count_attempt(payload: Any) -> None:
    mark_redelivered(payload)
    headers = payload["headers"]
    headers["retries"] = headers[FIRST] = _attempt(headers) + 1


def went_first(headers: Any) -> bool:
    """Whether an earlier attempt was cut short by a death already."""
    return FIRST in headers


def goes_first(headers: Any) -> bool:
    """Whether a message with these headers is to begin before what else waits in its worker."""
    first = headers.get(FIRST) if headers else None
    return first is not None and first == _attempt(headers)


def requeued(raw: bytes) -> bytes:
    """The message as its consumer has it run again."""
    return rewritten(raw, mark_requeued)


def mark_requeued(payload: Any) -> None:
    """Somebody wants it to run again later: like any other. Raises what a payload raises that is no message's."""
    mark_redelivered(payload)
    payload["headers"].pop(FIRST, None)


def _attempt(headers: Any) -> int:
    retries = headers.get("retries")
    return retries if isinstance(retries, int) else 0


def count_of(headers: Any) -> int:
    """Deaths in a message's headers; 0 for anything that is no count."""
    deaths = headers.get(DEATHS)
    return deaths if isinstance(deaths, int) and not isinstance(deaths, bool) and deaths > 0 else 0
