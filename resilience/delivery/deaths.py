"""Deaths of workers as a message carries them: who may have killed its worker runs alone once, then is set aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

DEATHS = "celeriac-deaths"
"""Header: how many workers died while this task was running in them."""

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
        headers[DEATHS] = deaths
        return str(dumps(payload)).encode(), deaths, str(headers.get("task")), str(headers.get("id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return raw, 0, "", ""


def count_of(headers: Any) -> int:
    """Deaths in a message's headers; 0 for anything that is no count."""
    deaths = headers.get(DEATHS)
    return deaths if isinstance(deaths, int) and not isinstance(deaths, bool) and deaths > 0 else 0
