"""A worker's dealings with what is due later, against the clock of a real Redis."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import pytest
from celery.worker import state as worker_state

from resilience.delivery.broker import Broker
from resilience.delivery.claims import Claims
from resilience.delivery.delayed import Delayed
from resilience.delivery.held import Held
from resilience.workers import later as later_module
from resilience.workers.alarm import Alarm
from resilience.workers.later import REVOKED_LOOKS, Later


@dataclass
class Channel:
    """As much of a consumer's channel as a hand-over needs."""

    held: Held
    owned: bool = True


@dataclass
class Message:
    channel: Channel
    headers: dict[str, Any]
    delivery_tag: str = "1"


@dataclass
class Bell:
    rung: list[float] = field(default_factory=list)

    def __call__(self, at: float) -> None:
        self.rung.append(at)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def later(bell: Bell) -> Later:
    return Later("celeriac", "w", 0.5, bell)


def received(broker: Broker, in_s: float, task_id: str = "id", owned: bool = True) -> Message:
    """A message that this worker has claimed, due by the true clock."""
    held = Held("celeriac", "w")
    broker.client.hset(held.claims_key, mapping={"1": "6:celerytext"})
    held.take("1", b"text")
    seconds, micros = broker.client.time()
    eta = datetime.fromtimestamp(seconds + micros / 1e6 + in_s, timezone.utc).isoformat()
    return Message(Channel(held, owned), {"id": task_id, "eta": eta})


def test_it_is_handed_over_and_comes_back_when_it_is_due(broker: Broker, later: Later, bell: Bell) -> None:
    message = received(broker, in_s=0.3)
    assert later.takes(message, None)
    assert 0 < bell.rung[0] - time.monotonic() < 0.3, "the pulse is told of what is due before its next beat"
    Claims(broker).tell(message.channel.held)
    again = later.look(broker)
    assert again - time.monotonic() < 0.3
    while time.monotonic() < again:
        assert broker.client.llen("celery") == 0
    assert later.look(broker) == math.inf
    assert broker.client.lrange("celery", 0, -1) == [b"text"]


def test_a_task_that_began_is_put_off_with_another_text(broker: Broker, later: Later) -> None:
    message = received(broker, in_s=0.0)
    assert later.puts_off(message, 0.1, bytes.upper)
    Claims(broker).tell(message.channel.held)
    again = later.look(broker)
    while time.monotonic() < again:
        assert broker.client.llen("celery") == 0
    later.look(broker)
    assert broker.client.lrange("celery", 0, -1) == [b"TEXT"]
    assert not later.puts_off(message, 0.1, bytes.upper), "it is not held any more"


@pytest.mark.parametrize("task_id", ["", "x" * 256, None, "half of one: \ud800"])
def test_what_redis_cannot_keep_by_its_id_is_not_put_off(broker: Broker, later: Later, task_id: str) -> None:
    message = received(broker, in_s=0.0, task_id=task_id)
    assert not later.puts_off(message, 0.1, bytes.upper)
    assert "1" in message.channel.held


def test_a_worker_whose_clock_is_behind_does_not_hand_a_due_message_over_again(
    broker: Broker, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time
    monkeypatch.setattr(later_module.time, "time", lambda: true_time() - 100)
    later.look(broker)
    assert not later.takes(received(broker, in_s=-1), None)
    assert later.takes(received(broker, in_s=1), None)


def test_what_is_celerys_stays_celerys(broker: Broker, later: Later) -> None:
    assert not later.takes(received(broker, in_s=60, owned=False), None), "the transport is not ours"
    worker_state.revoked.add("revoked")
    try:
        assert not later.takes(received(broker, in_s=60, task_id="revoked"), None)
    finally:
        worker_state.revoked.discard("revoked")
    given_back = received(broker, in_s=60)
    given_back.channel.held.give_back("1", bytes)
    assert not later.takes(given_back, None), "it is not held any more"


def test_protocol_1_has_its_eta_in_the_body(broker: Broker, later: Later) -> None:
    message = received(broker, in_s=60)
    body, message.headers = message.headers, {}
    assert later.takes(message, body)


def test_a_revoked_message_is_found_also_when_it_is_handed_over_a_moment_later(broker: Broker, later: Later) -> None:
    message = received(broker, in_s=60)
    assert later.takes(message, None)
    later.revoke(["id"])
    later.look(broker)
    Claims(broker).tell(message.channel.held)
    assert Delayed(broker, "celeriac").count() == 1
    later.look(broker)
    assert Delayed(broker, "celeriac").count() == 0
    for _ in range(REVOKED_LOOKS):
        later.look(broker)
    assert not later._revoked, "it is not looked for for ever"


def test_the_alarm_rings_at_the_earliest_time_and_beats_when_told() -> None:
    alarm, began = Alarm(), time.monotonic()
    alarm.ring(began + 60)
    alarm.ring(began + 0.01)
    assert alarm.wait(began + 30) is False
    alarm.beat_now()
    assert alarm.wait(began + 30) is True
    alarm.begin()
    assert alarm.wait(time.monotonic()) is True
    assert time.monotonic() - began < 30
