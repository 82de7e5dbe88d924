"""A Redis channel whose messages have an owner: taken and settled in one atomic step per turn of the worker's loop.

Only the connection that a worker consumes with has an owner (transport option `celeriac_owner`); any other channel,
of a publisher, of Flower, of a stock consumer in somebody's script, is kombu's own.
"""

from __future__ import annotations

import threading

from kombu.transport import redis as kombu_redis

from resilience.delivery.backlog import KnowsDelayed
from resilience.delivery.leaving import Leaving
from resilience.delivery.puts import Puts
from resilience.delivery.refusals import Knocks


class OwnedTurns(Leaving):
    """What a channel with an owner does; mixed into kombu's plain and Sentinel channels."""

    def wake(self) -> None:
        """Have the loop come round."""
        self._wake()

    def wake_if_elsewhere(self) -> None:
        """Something was noted. The loop needs no word where a turn follows anyway that tells it."""
        if threading.get_ident() == self._thread:
            return
        self._missed = True  # before it is asked whether the loop is awake: it looks here after it said that it is not
        if not self._woken:
            self._wake_if_due()


class OwnedChannel(Knocks, OwnedTurns, KnowsDelayed, Puts, kombu_redis.Channel):
    """redis:// and rediss://."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "celeriac_owner")


class OwnedSentinelChannel(Knocks, OwnedTurns, KnowsDelayed, Puts, kombu_redis.SentinelChannel):
    """sentinel://."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "celeriac_owner")
