"""Kombu's Redis transports with one repair, installed beneath Celery's own URLs so that TLS and Sentinel stay theirs.

When a broker dies under an acknowledgement, kombu 5.7 lets go of the connection's address before it has dealt with
what the channel still held; the next acknowledgement on that channel then raises AttributeError, which Celery takes
for unrecoverable, and the worker ends. A transport that keeps its address fails like any connection does, and once
the broker is back the late acknowledgement succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as kombu_redis
from kombu.utils.collections import HashedSeq
from kombu.utils.functional import fxrange

from resilience.delivery.bounded import carried_out, limits
from resilience.delivery.channel import OwnedChannel, OwnedSentinelChannel
from resilience.delivery.poller import OwnedPoller

_Base: Any = object  # a mix-in: what it stands before is kombu's, which has no types


class _KeepsAddress(_Base):
    """`client` is the connection whose address a channel asks for; once set it stays."""

    _address: Any = None

    @property
    def client(self) -> Any:
        return self._address

    @client.setter
    def client(self, value: Any) -> None:
        if value is not None:
            self._address = value


class _Said:
    """An `errback` that is called as often as kombu's own pauses would have it, and then ends the attempts."""

    def __init__(
        self,
        errback: Callable[[BaseException, float], object] | None,
        max_retries: int | None,
        pauses: Iterator[float],
    ) -> None:
        self._errback = errback
        self._max_retries = max_retries
        self._pauses = pauses
        self._count = 0
        self._next_at = 0.0

    def __call__(self, error: BaseException, interval: float) -> None:
        now = time.monotonic()
        if now < self._next_at:
            return
        if self._max_retries is not None and self._count >= self._max_retries:
            raise error
        pause = next(self._pauses) if interval else 0.0  # 0: another host of the URL is tried at once
        self._count += bool(interval)
        self._next_at = now + pause
        if self._errback is not None:
            self._errback(error, pause)


class _OwnPoller(_KeepsAddress):
    """A transport with our poller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = OwnedPoller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.join(loop)
        super().register_with_event_loop(connection, loop)


class RedisTransport(_OwnPoller, kombu_redis.Transport):
    """redis:// and rediss://."""

    Channel = OwnedChannel


class SentinelTransport(_OwnPoller, kombu_redis.SentinelTransport):
    """sentinel://."""

    Channel = OwnedSentinelChannel


HURRY_S = 0.5
"""After a failure: how long one command waits for a server that may not answer any more."""

POLICY = frozenset({"max_retries", "interval_start", "interval_step", "interval_max"})
"""What a retry policy may say to be ours to follow; anything else is for kombu's own retries."""

_REPAIRED = {kombu_redis.Transport: RedisTransport, kombu_redis.SentinelTransport: SentinelTransport}


KNOCK_S = 1.0
"""The longest pause between two attempts to reach a broker that is away."""


class Connection(kombu.Connection):
    """Kombu's Connection; only its Redis transports are exchanged, whatever the URL says of TLS, users or databases.

    `publish_bound_s`: how long publishing through it may take, in seconds, if its app bounds that; `bound_s`: the same
    once something publishes through it. A connection that only consumes waits as kombu does. `lean`: whether its pools
    are for publishing our way. `celeriac_namespace`: where a channel finds what is due later on its queues.
    """

    publish_bound_s: float | None = None
    bound_s: float | None = None
    lean = True
    celeriac_namespace: str | None = None
    transport_options: dict[str, Any]

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        **options: Any,
    ) -> Any:
        """What a consumer does until its broker is there. Told, and given up, at kombu's intervals; tried each second.

        With kombu's alone a worker sleeps for up to half a minute before a broker that is back.
        """
        pauses = fxrange(interval_start, interval_max + interval_start, interval_step, repeatlast=True)
        said = _Said(errback, max_retries, (min(pause, interval_max) for pause in pauses))
        quick = {"interval_start": KNOCK_S / 4, "interval_step": KNOCK_S / 4, "interval_max": KNOCK_S}
        return super().ensure_connection(said, None, **quick, **options)

    def get_transport_cls(self) -> Any:
        stock = super().get_transport_cls()
        return _REPAIRED.get(stock, stock)

    def collect(self, socket_timeout: float | None = None) -> None:
        """What Celery does after a failure. Kombu still tells the server to delete this and that: not for long."""
        for channel in list(getattr(self._transport, "channels", None) or ()):
            for name in ("_pool", "_async_pool"):
                _hurry(channel.__dict__.get(name))
        super().collect(socket_timeout)

    @property
    def is_repaired(self) -> bool:
        """Whether it leads to Redis, through a transport of ours."""
        return self.get_transport_cls() in _REPAIRED.values()

    def bind_time(self, bound_s: float | None) -> None:
        """Bound what is published through it, where the user did not."""
        if bound_s is None or self.bound_s is not None or not self.is_repaired:
            return
        self.bound_s = bound_s
        self.transport_options = limits(self.transport_options, bound_s)
        for channel in getattr(self._transport, "channels", None) or ():  # connected already, as beat's is
            for name in limits({}, bound_s):
                setattr(channel, name, self.transport_options[name])

    def ensure(self, obj: Any, fun: Callable[..., Any], *args: Any, **policy: Any) -> Callable[..., Any]:
        """Kombu's retry of an operation; on a connection that is bound in time, ours."""
        if self.bound_s is not None and not args and policy.keys() <= POLICY:
            bound_s = self.bound_s
            return lambda *words, **named: carried_out(self, obj, lambda: fun(*words, **named), bound_s, policy)
        ensured: Callable[..., Any] = super().ensure(obj, fun, *args, **policy)
        return ensured

    def Pool(self, limit: int | None = None, **options: Any) -> ConnectionPool:  # noqa: N802  kombu's name
        return Pool(self, limit, **options) if self.lean else super().Pool(limit, **options)

    def __eqhash__(self) -> HashedSeq:
        """Kombu keeps one pool for equal connections; a stock app of the same broker must not get ours."""
        ours = (self.lean, self.publish_bound_s, self.celeriac_namespace)
        return HashedSeq("celeriac", *ours, *super().__eqhash__())


class Pooled(Connection, PooledConnection):
    """A connection of a pool."""


class Pool(ConnectionPool):
    """Kombu's pool, whose connections are of the kind of the one that it was made from."""

    def new(self) -> Pooled:
        origin = self.connection
        info = dict(origin._info(resolve=False))  # noqa: SLF001  as kombu's pool does
        # what a task consumes through the pool, such as replies to remote control, is not the worker's
        options = {key: value for key, value in info.pop("transport_options").items() if key != "celeriac_owner"}
        made = Pooled(self, transport_options=options, **info)
        made.publish_bound_s, made.celeriac_namespace = origin.publish_bound_s, origin.celeriac_namespace
        made.bind_time(made.publish_bound_s)
        return made


def _hurry(pool: Any) -> None:
    """Have the commands of a connection pool go over new connections, which wait for a short time only."""
    if pool is not None:
        pool.connection_kwargs.update(socket_timeout=HURRY_S, socket_connect_timeout=HURRY_S)
        pool.disconnect(inuse_connections=False)
