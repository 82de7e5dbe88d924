"""A Redis that answers and refuses: no memory, no disk, no longer the primary. A worker waits for it; it does not end.

Celery takes such an answer for an error of the program. While a worker runs, its turns rest (see `channel.py`); when it
connects, the first thing that it asks is whether writes are taken, so that a refusal counts as "not there yet".
"""

from __future__ import annotations

from typing import Any

import redis

from resilience.delivery.holders import held_by

_NO_PRIMARY = ("READONLY", "MASTERDOWN", "UNBLOCKED")
_NOT_NOW = (*_NO_PRIMARY, "OOM", "MISCONF", "BUSY", "NOREPLICAS", "CLUSTERDOWN")

_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types


def is_no_primary(error: redis.ResponseError) -> bool:
    """Whether another connection may lead to the server that takes writes."""
    return isinstance(error, (redis.ReadOnlyError, redis.exceptions.MasterDownError)) or _says(error, _NO_PRIMARY)


def is_refusal(error: redis.ResponseError) -> bool:
    """Whether it is the server's state that refuses, and not the command or the user's rights."""
    return is_no_primary(error) or isinstance(error, redis.exceptions.OutOfMemoryError) or _says(error, _NOT_NOW)


def _says(error: redis.ResponseError, words: tuple[str, ...]) -> bool:
    """Redis 6 tells a script's refusal in the middle of its text, where no driver looks for it."""
    text = str(error)
    return any(text.startswith(word) or f"-{word} " in text for word in words)


class Knocks(_Base):
    """A worker's channel comes to be only where writes are taken. Mixed into kombu's channels."""

    celeriac_owner = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        held = held_by(self.celeriac_owner) if self.celeriac_owner else None
        if held is None:
            return
        try:
            # Writes nothing, and is refused whenever a write that needs memory is.
            self.client.setrange(f"{self.global_keyprefix}{held.namespace}:v1:knock", 0, "")
        except redis.ResponseError as error:
            if not is_refusal(error):
                raise
            self._disconnect_pools()
            raise redis.ConnectionError(f"Redis takes no writes: {error}") from error
