"""Kombu's Redis transports with one repair, installed beneath Celery's own URLs so that TLS and Sentinel stay theirs.

When a broker dies under an acknowledgement, kombu 5.7 lets go of the connection's address before it has dealt with
what the channel still held; the next acknowledgement on that channel then raises AttributeError, which Celery takes
for unrecoverable, and the worker ends. A transport that keeps its address fails like any connection does, and once
the broker is back the late acknowledgement succeeds.
"""

from __future__ import annotations

from typing import Any

import kombu
from kombu.transport import redis as kombu_redis

from resilience.delivery.channel import OwnedChannel, OwnedSentinelChannel
from resilience.delivery.poller import OwnedPoller


class _KeepsAddress:
    """`client` is the connection whose address a channel asks for; once set it stays."""

    _address: Any = None

    @property
    def client(self) -> Any:
        return self._address

    @client.setter
    def client(self, value: Any) -> None:
        if value is not None:
            self._address = value


class RedisTransport(_KeepsAddress, kombu_redis.Transport):
    """redis:// and rediss://."""

    Channel = OwnedChannel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = OwnedPoller()


class SentinelTransport(_KeepsAddress, kombu_redis.SentinelTransport):
    """sentinel://."""

    Channel = OwnedSentinelChannel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = OwnedPoller()


_REPAIRED = {kombu_redis.Transport: RedisTransport, kombu_redis.SentinelTransport: SentinelTransport}


class Connection(kombu.Connection):
    """Kombu's Connection; only its Redis transports are exchanged, whatever the URL says of TLS, users or databases."""

    def get_transport_cls(self) -> Any:
        stock = super().get_transport_cls()
        return _REPAIRED.get(stock, stock)
