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


def test_after_a_silence_of_all_only_who_has_not_beaten_since_is_spared(registry: Registry, redis_url: str) -> None:
    """Everybody looks dead then; but who has beaten since, and stopped again, has died since."""
    with redis.Redis.from_url(redis_url) as client:
        now_ms = client.time()[0] * 1000
        client.zadd("celeriac:v1:workers", {"from before": now_ms - 90_000, "died since": now_ms - 30_000})
        client.set("celeriac:v1:workers:grace", now_ms - 60_000)
        assert registry.beat("judge", GONE_S, SILENT_S, reconnected=False).suspects == ["died since"]
        assert registry.condemn("from before", "judge", GONE_S, SILENT_S) is None
        assert registry.condemn("died since", "judge", GONE_S, SILENT_S) is not None
        assert registry.beat("judge", GONE_S, SILENT_S, reconnected=True).suspects == [], "Redis was away: again"
        assert registry.condemn("died since", "judge", GONE_S, SILENT_S) is None


def test_a_beat_says_when_somebody_without_a_connection_will_seem_dead(registry: Registry, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as life:
        life.subscribe(registry.channel("busy"))
        life.get_message(timeout=1.0)
        seconds, micros = client.time()
        now_ms = seconds * 1000 + micros // 1000
        client.zadd("celeriac:v1:workers", {"busy": now_ms - 70_000, "gone": now_ms - 80_000})
        client.set("celeriac:v1:workers:seen", now_ms)
        beat = registry.beat("judge", 100.0, 300.0, reconnected=False)
        assert beat.suspects == []
        assert beat.look_in_s is not None
        assert 15.0 < beat.look_in_s <= 20.0, "of the one that is gone"
        client.zrem("celeriac:v1:workers", "gone")
        assert registry.beat("judge", 100.0, 300.0, reconnected=False).look_in_s is None


def test_many_that_are_late_and_connected_hide_no_dead_one(registry: Registry, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as life:
        now_ms = client.time()[0] * 1000
        slow = [f"slow {number}" for number in range(20)]
        life.subscribe(*map(registry.channel, slow))
        for _ in slow:
            life.get_message(timeout=1.0)
        client.zadd("celeriac:v1:workers", {**dict.fromkeys(slow, now_ms - 20_000), "dead": now_ms - 10_000})
        client.set("celeriac:v1:workers:seen", now_ms)
        assert registry.beat("judge", 5.0, SILENT_S, reconnected=False).suspects == ["dead"]
