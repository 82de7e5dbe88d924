"""The last fleet events that Flower's receiver saw: what it otherwise only counts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from signals.redact import redact

_PREFIX = "celeriac-"
_ENVELOPE = frozenset(
    {"type", "hostname", "timestamp", "pid", "clock", "utcoffset", "local_received", "freq"}
)  # fmt: skip
_TEXT_LENGTH = 300


@dataclass(frozen=True)
class SeenEvent:
    """One event. `kind` has no `celeriac-` prefix, `at` is seconds since the epoch, `hostname` the sender."""

    kind: str
    at: float
    hostname: str
    fields: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What happened, in one line."""
        fields = dict(self.fields)
        if self.kind == "circuit-changed":
            line = f"{fields.get('name')}: {fields.get('old')} → {fields.get('new')}, {fields.get('reason')}"
        else:
            line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
        line = redact(" ".join(line.split()))
        return line if len(line) <= _TEXT_LENGTH else line[: _TEXT_LENGTH - 1] + "…"


class RecentEvents:
    """The newest `length` events of Celeriac, in memory. Used from Flower's event loop only."""

    def __init__(self, length: int = 200) -> None:
        self._seen: deque[SeenEvent] = deque(maxlen=length)

    def see(self, event: Mapping[str, Any]) -> None:
        """Keep `event` if it is one of ours. It comes from the network: trust nothing in it."""
        kind = str(event.get("type", ""))
        if not kind.startswith(_PREFIX):
            return
        at = event.get("timestamp")
        self._seen.appendleft(
            SeenEvent(
                kind=kind.removeprefix(_PREFIX),
                at=float(at) if isinstance(at, (int, float)) else time.time(),
                hostname=str(event.get("hostname", "")),
                fields={name: value for name, value in event.items() if name not in _ENVELOPE},
            )
        )

    def newest(self, count: int) -> list[SeenEvent]:
        """The newest `count`, newest first."""
        return list(self._seen)[:count]
