"""The script that gives one worker the right to take a dead one's work, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from resilience.delivery.broker import Broker
from resilience.testing import until
from resilience.workers.registry import Registry

GONE_S, SILENT_S = 0.05, 60.0


@pytest.fixture
def registry(redis_url: str) -> Iterator[Registry]:
    app = Celery("condemned", broker=redis_url, set_as_current=False)
    broker = Broker(app)
    yield Registry(broker, "celeriac")
    broker.close()
    app.close()


def has_died(registry: Registry, owner: str) -> None:
    registry.beat(owner, GONE_S, SILENT_S, reconnected=False)
    until(lambda: registry.condemn(owner, "first", GONE_S, SILENT_S), what="it beats no more")


def test_while_a_judge_lives_no_other_takes_the_same_work(registry: Registry, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as life:
        life.subscribe(registry.channel("first"))
        life.get_message(timeout=1.0)
        has_died(registry, "dead")
        assert registry.condemn("dead", "second", GONE_S, SILENT_S) is None


def test_a_judge_that_died_in_the_middle_is_followed_by_the_next_at_once(registry: Registry) -> None:
    has_died(registry, "dead")
    assert registry.condemn("dead", "second", GONE_S, SILENT_S) is not None


def test_a_judge_whose_connection_broke_in_the_middle_goes_on_itself(registry: Registry, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as life:
        life.subscribe(registry.channel("first"))
        life.get_message(timeout=1.0)
        has_died(registry, "dead")
        assert registry.condemn("dead", "first", GONE_S, SILENT_S) is not None
