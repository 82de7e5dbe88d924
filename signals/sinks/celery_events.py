"""Events on Celery's own event bus, so that Flower and every event consumer sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from signals.events import (
    CircuitChanged,
    ClaimsTakenOver,
    Event,
    MessageQuarantined,
    ParkedReleased,
    QuarantineDiscarded,
    QuarantineDropped,
    QuarantineReplayed,
    RecoveryEnded,
    RecoveryStarted,
    StoreAway,
    StoreBack,
    WorkerBackInRotation,
    WorkerDied,
    WorkerOutOfRotation,
    WorkerRecovered,
    WorkerStalled,
    WorkerUnhealthy,
)

if TYPE_CHECKING:
    from celery import Celery

# Only what is rare: an event per re-routed task would cost a publish each, on the path it speeds up.
_SHOWN = (
    CircuitChanged,
    ClaimsTakenOver,
    MessageQuarantined,
    ParkedReleased,
    QuarantineDiscarded,
    QuarantineDropped,
    QuarantineReplayed,
    RecoveryEnded,
    RecoveryStarted,
    StoreAway,
    StoreBack,
    WorkerBackInRotation,
    WorkerDied,
    WorkerOutOfRotation,
    WorkerRecovered,
    WorkerStalled,
    WorkerUnhealthy,
)


def celery_event_sink(app: Celery) -> Callable[[Event], None]:
    """A sink that sends fleet-level events as `celeriac-<kind>` on `app`'s event exchange; raises without a broker."""

    def send(event: Event) -> None:
        if isinstance(event, _SHOWN):
            with app.events.default_dispatcher() as dispatcher:
                dispatcher.send(f"celeriac-{event.kind}", **event.fields())

    return send
