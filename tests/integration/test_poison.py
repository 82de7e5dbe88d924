"""A task that kills whole workers: it alone ends in quarantine, and whoever ran or waited beside it is not blamed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from billiard.exceptions import WorkerLostError
from celery import Celery

from resilience import Resilience
from resilience.delivery.deaths import DEATHS
from resilience.testing import WorkerProcess, until
from tests.claims import claimed
from tests.integration.conftest import StartWorkers

TWO_DEATHS = {"RESILIENCE_POISON_DEATHS": "2"}


@pytest.fixture
def shop(shop_redis: str) -> Iterator[Celery]:
    app = Celery("shop", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    Resilience(app)
    yield app
    app.resilience.quarantine.close()
    app.close()


def revive(fleet: list[WorkerProcess]) -> bool:
    """What a supervisor does: start each worker again that is dead."""
    for worker in fleet:
        if worker.returncode is not None:
            worker.start()
    return True


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_one_that_kills_every_worker_ends_in_quarantine_and_a_hundred_good_ones_run(
    shop: Celery, book: redis.Redis, broker: redis.Redis, workers: StartWorkers, pool: str
) -> None:
    options = {"pool": pool, "concurrency": 1 if pool == "solo" else 2, "env": TWO_DEATHS}
    fleet = workers({"name": "a"}, {"name": "b"}, **options)
    bad = None
    for number in range(100):
        shop.send_task("tasks.note", (number,), ignore_result=True)
        if number == 50:
            bad = shop.send_task("tasks.massacre")
    assert bad is not None
    quarantine = shop.resilience.quarantine
    until(lambda: revive(fleet) and quarantine.list(), within_s=120, what="it is in quarantine")
    (record,) = quarantine.list()
    assert (record.task_id, record.reason, record.deaths) == (bad.id, "poison", 3)
    assert book.llen("killed") == 3, "twice among others, once alone"
    with pytest.raises(WorkerLostError, match="3 workers died"):
        bad.get(timeout=20)
    until(lambda: revive(fleet) and set(book.lrange("ran", 0, -1)) == {str(n) for n in range(100)}, within_s=60)
    until(lambda: not claimed(broker))
    assert len(quarantine.list()) == 1, "none of its neighbours"


def test_only_what_had_begun_is_blamed_and_nobody_when_the_worker_was_being_stopped(
    shop: Celery, book: redis.Redis, broker: redis.Redis, workers: StartWorkers
) -> None:
    held = 4  # two run, two wait behind them
    first, second = workers({"name": "first"}, {"name": "second"})
    for number in range(2 * held):
        shop.send_task("tasks.hold", (number,), ignore_result=True)
    until(lambda: book.llen("began") == 4 and broker.llen("celery") == 0, what="both windows are full")
    second.ask_to_stop()
    until(lambda: "Warm shutdown" in second.log(), what="it is being stopped")
    until(lambda: any(broker.hexists(key, "stopping") for key in broker.keys("*:worker:*")), what="others may know")
    second.kill()
    until(lambda: broker.llen("celery") == held, what="what the stopped one held is back")
    assert deaths(broker) == [0] * held, "a deploy condemns nobody"
    first.kill()
    workers({"name": "third", "queues": "none"})
    until(lambda: broker.llen("celery") == 2 * held, what="what the killed one held is back")
    assert sorted(deaths(broker)) == [0] * 6 + [1, 1]


def deaths(broker: redis.Redis) -> list[int]:
    return [json.loads(raw)["headers"].get(DEATHS, 0) for raw in broker.lrange("celery", 0, -1)]
