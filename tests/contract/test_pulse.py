"""A worker's pulse on a real Redis: known and witnessed before it works, and missed when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from resilience.delivery.broker import Broker
from resilience.settings import Settings
from resilience.workers.pulse import Pulse
from resilience.workers.registry import Registry
from signals.bus import Bus


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("pulse", broker=redis_url, set_as_current=False)
    yield app
    app.close()


def test_a_worker_that_is_slow_to_connect_is_witnessed_when_it_is_known(app: Celery, redis_url: str) -> None:
    """Else others, who find an old beat and no connection, take it for dead while it begins to work."""

    def slowly() -> Broker:
        time.sleep(0.3)  # a host under load
        return Broker(app)

    pulse = Pulse("host:1:me", Settings(), Bus(), slowly, lambda: "[false,[]]", lambda *_: None, lambda *_: False)
    broker = Broker(app)
    registry = Registry(broker, "celeriac")
    try:
        pulse.start({"hostname": "w@test"})
        assert [worker.owner for worker in registry.live()] == ["host:1:me"]
        with redis.Redis.from_url(redis_url) as client:
            channel = registry.channel("host:1:me")
            assert dict(client.pubsub_numsub(channel)) == {channel.encode(): 1}
    finally:
        pulse.stop()
        assert registry.live() == []
        broker.close()
