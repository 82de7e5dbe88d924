"""A worker dies while it moves a queue round an open circuit: every message is in one place, and only there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import redis
from celery import Celery

from resilience import Breakers
from resilience.testing import until
from tests.integration.conftest import StartWorkers


@pytest.fixture
def publish(shop_redis: str) -> Iterator[Callable[[int], list[str]]]:
    """So many tasks, by an app that knows nothing of the open circuit, onto the home queue; their ids in order."""
    breakers = Breakers.from_url(f"{shop_redis}/0")
    breakers.force_open("payments", actor="ann", reason="the test says so")
    with (
        Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app,
        app.producer_pool.acquire() as producer,
    ):
        yield lambda count: [
            app.send_task("tasks.charge", (n,), ignore_result=True, producer=producer).id for n in range(count)
        ]
    breakers.close()


def ids(broker: redis.Redis, queue: str) -> list[str]:
    """What lies there, the oldest first."""
    texts = cast("list[str]", broker.lrange(queue, 0, -1))
    return [json.loads(text)["headers"]["id"] for text in reversed(texts)]


def holds_nothing(broker: redis.Redis) -> bool:
    tags = (name for key in broker.keys("celeriac:v1:claims:*") for name in broker.hkeys(key))
    return not broker.exists("celery") and not any(tag.isdigit() for tag in tags)


def test_a_worker_killed_while_it_moves_2000_messages_loses_and_doubles_none(
    broker: redis.Redis, publish: Callable[[int], list[str]], workers: StartWorkers
) -> None:
    waiting = publish(2000)
    (first,) = workers({"name": "w1", "concurrency": 1})
    until(lambda: broker.llen("fallback") >= 200, what="it is at it")
    first.kill()
    moved = broker.llen("fallback")
    assert moved < 2000, "it was in the middle of it"
    workers({"name": "w2", "concurrency": 1})
    until(lambda: holds_nothing(broker), within_s=60, what="the other one moved the rest")
    found = ids(broker, "fallback")
    assert Counter(found) == Counter(waiting)
    assert found[:moved] == waiting[:moved], "in their order"


def test_a_moved_message_differs_in_its_address_and_its_journey_only(
    broker: redis.Redis, shop_redis: str, publish: Callable[[int], list[str]], workers: StartWorkers
) -> None:
    publish(0)
    with Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app:
        told = {
            "headers": {"tenant": "t7"},
            "expires": 3600,
            "compression": "zlib",
            "link": app.signature("tasks.note"),
        }
        app.send_task("tasks.charge", (7,), priority=3, **told)
    (before,) = (json.loads(text) for text in broker.lrange("celery\x06\x163", 0, -1))
    workers({"name": "w1", "concurrency": 1})
    until(lambda: broker.llen("fallback\x06\x163"), what="it moved, with its priority")
    (after,) = (json.loads(text) for text in broker.lrange("fallback\x06\x163", 0, -1))
    journey = after["headers"].pop("celeriac")
    assert journey["hops"] == [["celery", "fallback", "circuit payments open", 1]]
    assert after["properties"]["delivery_info"].pop("routing_key") == "fallback"
    assert before["properties"]["delivery_info"].pop("routing_key") == "celery"
    assert after == before


def test_publishing_and_then_acknowledging_would_double_one(
    broker: redis.Redis, publish: Callable[[int], list[str]], workers: StartWorkers
) -> None:
    publish(50)
    (first,) = workers({"name": "w1", "concurrency": 1, "env": {"SHOP_TWO_STEPS": "1"}})
    until(lambda: first.returncode is not None, what="it is dead")
    workers({"name": "w2", "concurrency": 1})
    until(lambda: holds_nothing(broker), within_s=60, what="the other one moved the rest")
    assert max(Counter(ids(broker, "fallback")).values()) == 2
