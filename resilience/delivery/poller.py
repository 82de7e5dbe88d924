"""Kombu's poller with a turn for every channel that has an owner."""

from __future__ import annotations

import time
from typing import Any

from kombu.transport import redis as kombu_redis


class OwnedPoller(kombu_redis.MultiChannelPoller):
    """Kombu's poller; channels with an owner do a turn each time the loop comes round."""

    _channels: set[Any]
    _loop: Any = None
    _turn_at = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._fresh: set[int] = set()

    def join(self, loop: Any) -> None:
        """The event loop that this poller belongs to; without one kombu polls by itself."""
        self._loop = loop

    @property
    def fds(self) -> Any:
        """What the loop is to watch: kombu adds all of this at every turn, so only what it does not watch yet."""
        if self._loop is None:
            return self._fd_to_chan
        fresh, self._fresh = self._fresh, set()
        readers = self._loop.readers
        return [fd for fd in self._fd_to_chan if fd in fresh or fd not in readers]

    def turn_within(self, seconds: float) -> bool:
        """Have the loop come round in so many seconds; False where there is no loop that could."""
        if self._loop is None:
            return False
        now = time.monotonic()
        if self._turn_at <= now:
            self._turn_at = now + seconds
            self._loop.call_later(seconds, _come_round)
        return True

    def on_poll_start(self) -> None:
        everyone = self._channels
        owned = {channel for channel in everyone if channel.owned}
        self._channels = everyone - owned
        try:
            super().on_poll_start()
        finally:
            self._channels = everyone
        for channel in owned:
            channel.turn(self)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        channel, kind = self._fd_to_chan.get(fileno, (None, ""))
        if channel is None or not channel.owned or kind == "LISTEN":
            return super().on_readable(fileno)
        return channel.handlers[kind]()  # read also when there is no room: what arrives is owned

    def _register(self, channel: Any, client: Any, kind: str) -> None:
        super()._register(channel, client, kind)
        self._fresh.add(self._chan_to_sock[channel, client, kind].fileno())

    def attach(self, channel: Any, line: Any) -> None:
        """Have the loop watch a line, which is connected."""
        if self._chan_to_sock.get((channel, line, line.kind)) is not line.connection._sock:  # noqa: SLF001  kombu reads it too
            self._register(channel, line, line.kind)


def _come_round() -> None:
    """To wake the loop is enough: it does a turn whenever it comes round."""
