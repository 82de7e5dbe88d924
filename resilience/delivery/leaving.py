"""The end of a channel that owns messages: what does not run goes back, and what ended is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis

from resilience.delivery.arrivals import Arrivals
from resilience.delivery.envelope import redelivered
from resilience.delivery.lines import CLOSING_S, GONE

logger = logging.getLogger("celeriac")


class Leaving(Arrivals):
    """What stands before kombu's own end of a channel."""

    def close(self) -> None:
        """Give back what does not run, and tell what ended. A connection that broke leaves that to the next one."""
        if self.owned and not self.closed:
            if not any(line.broken for line in self._lines):
                self._settle_up(self._leave)
            self._let_go()
        super().close()

    def _basic_cancel(self, consumer_tag: str) -> Any:
        answer = super()._basic_cancel(consumer_tag)
        if self.owned and self.held.stopping and not self.active_queues:
            self._settle_up(self._hand_back)
        return answer

    def _leave(self) -> None:
        if self.held.left_by(self) and not self.held.lapsed:
            self.held.give_back_idle(redelivered)

    def _hand_back(self) -> None:
        """The worker stops, and what it runs may take an hour: what it will not run is for others at once."""
        if self.held.begins_on_accept:
            self.held.give_back_behind(redelivered)  # such a pool runs what it was given, as under stock transport
        else:
            self.held.give_back_idle(redelivered)

    def _settle_up(self, give_back: Callable[[], None]) -> None:
        try:
            for line in self._lines:
                line.bound(CLOSING_S)
            if self._main.busy:
                self._reply()
            self._stop_waiting()
            give_back()
            while self.held.unsettled:
                self._send(room=0)
                self._reply()
        except (*GONE, redis.ResponseError) as error:
            logger.debug("celeriac: a broken connection left its last turn to the next one: %s", error)

    def _let_go(self) -> None:
        self.held.left_by(self)
        for line in self._lines:
            line.close()
        self._marker.close()
        self._wake.close()
