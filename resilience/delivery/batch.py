"""Many messages in one round trip, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import redis

from resilience.delivery.bounded import REFUSED

_BROKEN = (OSError, redis.RedisError)


@dataclass(slots=True)
class Outcome:
    """By message: True, it was sent; False, it was not; None, the broker may have got it. `error`: why not all were."""

    fates: list[bool | None]
    error: Exception | None = None


def put_batch(channel: Any, parcels: list[Any]) -> Outcome:
    """Put messages into their lists, each list in one command. Raises only what happens before anything is written."""
    lists: dict[tuple[str, str], list[int]] = {}
    for number, parcel in enumerate(parcels):
        lists.setdefault((parcel.queue, channel.key_of(parcel.queue, parcel.priority)), []).append(number)
    outcome = Outcome([None] * len(parcels))
    spare = channel.spare
    connection = spare.take(rest_s=0.0)  # a batch that fails half-way is not sent again
    try:
        written = []
        for (queue, key), numbers in lists.items():
            written += connection.pack_command("LPUSH", key, *(parcels[number].text for number in numbers))
            written += chain.from_iterable(connection.pack_command(*words) for words in _lifetime(channel, queue))
        connection.send_packed_command([b"".join(written)])
        for (queue, _), numbers in lists.items():
            _note(connection, numbers, outcome)
            for _ in _lifetime(channel, queue):
                connection.read_response()
    except BaseException as error:
        connection.disconnect()  # with replies under way it is of no use to anybody
        spare.pool.release(connection)
        if not isinstance(error, _BROKEN):
            raise
        outcome.error = error
    else:
        spare.keep(connection)
    return outcome


def _note(connection: Any, numbers: Iterable[int], outcome: Outcome) -> None:
    """Read the reply to one list's command."""
    try:
        connection.read_response()
        fate = True
    except REFUSED as error:
        outcome.error, fate = error, False
    for number in numbers:
        outcome.fates[number] = fate


def _lifetime(channel: Any, queue: str) -> list[tuple[Any, ...]]:
    """What kombu sends after each message for a queue that expires."""
    if queue not in channel._expires:  # noqa: SLF001  kombu tells nobody else
        return []
    return [("PEXPIRE", channel.key_of(queue, step), channel._expires[queue]) for step in channel.priority_steps]  # noqa: SLF001
