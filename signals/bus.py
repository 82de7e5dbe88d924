"""The way from a fact to the sinks: `publish` hands an event to each of them; a faulty sink breaks nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from signals.events import Event
from signals.redact import describe

Sink = Callable[[Event], None]

logger = logging.getLogger("celeriac")


class Bus:
    """Sinks in order of subscription. Publishing never raises."""

    def __init__(self) -> None:
        self._sinks: list[Sink] = []

    def subscribe(self, sink: Sink) -> None:
        if sink not in self._sinks:
            self._sinks.append(sink)

    def __contains__(self, sink: Sink) -> bool:
        return sink in self._sinks

    def publish(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink(event)
            except Exception as error:  # noqa: PERF203  each sink is on its own, and none may fail the work
                detail = logger.isEnabledFor(logging.DEBUG)
                logger.warning("celeriac: sink %r failed on %s: %s", sink, event.kind, describe(error), exc_info=detail)
