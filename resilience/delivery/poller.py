"""Kombu's poller with a turn for every channel that has an owner."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis


class OwnedPoller(kombu_redis.MultiChannelPoller):
    """Kombu's poller; channels with an owner do a turn each time the loop comes round."""

    _channels: set[Any]

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

    def attach(self, channel: Any, line: Any) -> None:
        """Have the loop watch a line, which is connected."""
        if self._chan_to_sock.get((channel, line, line.kind)) is not line.connection._sock:  # noqa: SLF001  kombu reads it too
            self._register(channel, line, line.kind)
