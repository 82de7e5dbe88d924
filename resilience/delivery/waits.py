"""The idle worker: the server moves the next message of each list to one of the worker's own, and wakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import redis

from resilience.delivery.lines import Line, Packed
from resilience.delivery.poller import OwnedPoller

WAIT_S = 2
"""How long the server lets a worker wait idly before it answers that there was nothing."""

WAITED = "w:"
"""Begins those fields of the claims that name each source that the worker ever waited for."""

NOT_ALLOWED = -1
"""Instead of a connection's number, for a user who may not ask for it."""

_UNBLOCK = Packed("CLIENT", "UNBLOCK")


class IdleWaits:
    """A connection for each source. `list_of`: the list into which its messages move; `heard`: told when a wait ends.

    All keys are whole ones. Every method may raise the server's refusal or the connection's error.
    """

    def __init__(self, channel: Any, claims: str, list_of: Callable[[str], str], heard: Callable[[str], bool]) -> None:
        self._channel, self._claims, self._list_of, self._heard = channel, claims, list_of, heard
        self._lines: dict[str, Line] = {}

    @property
    def lines(self) -> list[Line]:
        return list(self._lines.values())

    @property
    def sources(self) -> set[str]:
        """Every source that was ever waited for here."""
        return set(self._lines)

    def begin(self, sources: Iterable[str], poller: OwnedPoller) -> None:
        """Wait for each of `sources` that is not waited for already."""
        for source in sources:
            line = self._lines.get(source) or self._made(source)
            if line.busy:
                continue
            if not line.client_id:
                line.client_id = _client_id(line)
            line.send("BLMOVE", source, self._list_of(source), "RIGHT", "LEFT", WAIT_S)
            poller.attach(self._channel, line)

    def ended(self, source: str) -> bool:
        """The answer of one wait: whether a message moved."""
        return self._lines[source].read() is not None

    def end(self, main: Line) -> bool:
        """End all waits, by way of the connection `main`; True if a message may have moved."""
        moved = False
        waiting = [line for line in self._lines.values() if line.busy]
        for line in waiting:
            if line.client_id == NOT_ALLOWED:  # what it moved after this turn's look, the next look finds
                line.close()
                moved = True
        main.ask_all([_UNBLOCK.with_words(line.client_id) for line in waiting if line.busy])
        for line in (line for line in waiting if line.busy):
            with suppress(redis.ResponseError):  # a wait that was refused has moved nothing
                moved = line.read() is not None or moved
        return moved

    def _made(self, source: str) -> Line:
        line = self._lines[source] = Line(self._channel, f"WAIT:{source}")
        self._channel.handlers[line.kind] = lambda: self._heard(source)
        line.ask("HSET", self._claims, f"{WAITED}{source}", 1)  # whoever buries this worker looks there
        return line


def _client_id(line: Line) -> int:
    try:
        return int(line.ask("CLIENT", "ID"))
    except redis.exceptions.NoPermissionError:
        return NOT_ALLOWED
