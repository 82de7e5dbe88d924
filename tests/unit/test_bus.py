"""Publishing reaches every sink in order and never raises."""

from __future__ import annotations

import logging

import pytest

from signals.bus import Bus
from signals.events import Event, StoreBack


def test_every_sink_gets_the_event_in_order_of_subscription() -> None:
    seen: list[tuple[str, Event]] = []
    bus = Bus()
    bus.subscribe(lambda event: seen.append(("first", event)))
    bus.subscribe(lambda event: seen.append(("second", event)))
    event = StoreBack(1.0)
    bus.publish(event)
    assert seen == [("first", event), ("second", event)]


def test_a_sink_that_is_subscribed_twice_is_called_once() -> None:
    seen: list[Event] = []
    bus = Bus()
    sink = seen.append
    bus.subscribe(sink)
    bus.subscribe(sink)
    assert sink in bus
    bus.publish(StoreBack(1.0))
    assert len(seen) == 1


def test_a_faulty_sink_is_logged_and_the_next_one_still_hears(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def faulty(_event: Event) -> None:
        raise RuntimeError("no more disk")

    bus = Bus()
    bus.subscribe(faulty)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.WARNING, "celeriac"):
        bus.publish(StoreBack(1.0))
    assert len(seen) == 1
    assert "failed on store-back: RuntimeError: no more disk" in caplog.text
