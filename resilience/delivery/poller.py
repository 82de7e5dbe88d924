"""Kombu's poller with a turn for every channel that has an owner."""

from __future__ import annotations

import time
from typing import Any

from kombu.transport import redis as kombu_redis


class OwnedPoller(kombu_redis.MultiChannelPoller):
    """Kombu's poller; channels with an owner do a turn each time the loop comes round."""

    _channels: set[Any]
    _loop: Any = None
    _due_s = _timer_s = 0.0

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

    def come_round_at(self, due_s: float) -> bool:
        """Have the loop come round then, by the monotonic clock; False where there is no loop that could.

        To be called before the loop comes round the next time: it reckons how long it may sleep before it calls
        `on_poll_start`, and a timer that is set in there would not wake it.
        """
        if self._loop is None:
            return False
        self._due_s = due_s
        if self._timer_s <= time.monotonic():
            self._set_timer()
        return True

    def _set_timer(self) -> None:
        self._timer_s = self._due_s
        self._loop.call_later(max(0.0, self._due_s - time.monotonic()), self._comes_round)

    def _comes_round(self) -> None:
        """To wake the loop is enough: it does a turn whenever it comes round."""
        if self._due_s > time.monotonic():  # somebody asked for a later time meanwhile
            self._set_timer()

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
