"""Publishing that ends in time while the broker is away, and knows whether the message may have got through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import redis

REFUSED = (redis.ResponseError, redis.exceptions.BusyLoadingError)
"""Answers of a broker that did not take a message."""

_MARK = "_celeriac_may_have_been_sent"


def limits(options: dict[str, Any], bound_s: float) -> dict[str, Any]:
    """A connection's options with socket timeouts, where the user gave none."""
    return {"socket_timeout": bound_s, "socket_connect_timeout": bound_s, **options}


def mark_sent(error: BaseException) -> None:
    """Note that the broker may have got the message although its publication failed with `error`."""
    setattr(error, _MARK, True)


def may_have_been_sent(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, was noted so."""
    while error is not None:
        if getattr(error, _MARK, False):
            return True
        error = error.__cause__
    return False


@dataclass(frozen=True)
class Patience:
    """A retry policy as Celery and kombu write it, with kombu's defaults. `max_retries` None: for ever."""

    max_retries: int | None = None
    interval_start: float = 1
    interval_step: float = 1
    interval_max: float = 1

    def pauses(self) -> Iterator[float]:
        """Seconds from one attempt to the next."""
        return (min(self.interval_start + number * self.interval_step, self.interval_max) for number in count())

    def lasts_s(self, bound_s: float) -> float:
        """How long attempts may begin: `bound_s`, or as long as the policy itself wants to go on where that is more."""
        if self.max_retries is None:
            return float("inf")
        return max(bound_s, sum(islice(self.pauses(), self.max_retries)))


def carried_out(connection: Any, obj: Any, call: Callable[[], Any], bound_s: float, policy: dict[str, Any]) -> Any:
    """`call()`, tried again as `policy` says, but not begun again after `bound_s` seconds: see `Patience.lasts_s`.

    As kombu's `Connection.ensure`, which revives `obj` after a reconnect, except that connecting does not retry within
    each attempt. Raises OperationalError.
    """
    began = time.monotonic()
    try:
        return _attempt(connection, None, call)
    except _errors(connection) as error:
        patience = Patience(**policy)
        ends = began + patience.lasts_s(bound_s)
        return _tried_again(connection, obj, call, _Failures(error), patience, ends)


@dataclass
class _Failures:
    """What went wrong so far; if a message may have got through once, that is said of the last failure, too."""

    last: BaseException

    def add(self, error: BaseException) -> None:
        if may_have_been_sent(self.last):
            mark_sent(error)
        self.last = error


def _tried_again(
    connection: Any, obj: Any, call: Callable[[], Any], failures: _Failures, patience: Patience, ends: float
) -> Any:
    pauses = patience.pauses()
    retries = 0
    while (patience.max_retries is None or retries < patience.max_retries) and time.monotonic() < ends:
        revived = None
        if isinstance(failures.last, connection.recoverable_connection_errors):
            connection.maybe_switch_next()
            connection.collect()
            revived = obj
        if connection.completes_cycle(retries):
            time.sleep(next(pauses))
        retries += 1
        try:
            return _attempt(connection, revived, call)
        except _errors(connection) as error:
            failures.add(error)
    with connection._reraise_as_library_errors():  # noqa: SLF001  what kombu's own `ensure` ends with
        raise failures.last


def _attempt(connection: Any, revived: Any, call: Callable[[], Any]) -> Any:
    if not connection.connected:
        connection._ensure_connection(max_retries=0, reraise_as_library_errors=False)  # noqa: SLF001  kombu has no other
    if revived is not None:
        revived.revive(connection.default_channel)
    return call()


def _errors(connection: Any) -> tuple[type[BaseException], ...]:
    return (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
