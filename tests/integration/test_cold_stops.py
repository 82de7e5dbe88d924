"""SIGQUIT, the cold shutdown: what a pool cannot end runs to its end, and what it can runs elsewhere."""

from __future__ import annotations

import signal
from collections import Counter

import psutil
import pytest
import redis
from celery import Celery

from resilience.testing import until
from tests.integration.conftest import StartWorkers


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_cold_stop_of_a_pool_that_cannot_end_a_task_waits_for_it(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers, pool: str
) -> None:
    (worker,) = workers({"name": "w"}, pool=pool, concurrency=1)
    Celery("stock", broker=f"{shop_redis}/0", set_as_current=False).send_task("tasks.hold", (7,), ignore_result=True)
    until(lambda: book.llen("began") == 1, what="it runs")
    worker.kill(signal.SIGQUIT)
    until(lambda: "terminate all running tasks" in worker.log(), what="it is being stopped")
    book.set("go", "1")
    until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE, what="it ended by itself")
    assert Counter(book.lrange("ran", 0, -1)) == {"7": 1}
    assert "Traceback" not in worker.log()
    assert not broker.llen("celery")


def test_what_a_solo_worker_had_taken_when_it_was_stopped_goes_back_in_order(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    app = Celery("stock", broker=f"{shop_redis}/0", set_as_current=False)
    for number in range(6):
        app.send_task("tasks.hold", (number,), ignore_result=True)
    (worker,) = workers({"name": "w"}, pool="solo", concurrency=3)  # it takes six, and runs one
    until(lambda: book.llen("began") == 1, what="the first runs")
    worker.kill(signal.SIGQUIT)
    book.set("go", "1")
    until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE, what="it ended by itself")
    until(lambda: broker.llen("celery") == 5, what="the others are back")
    workers({"name": "next"}, pool="solo", concurrency=1)
    until(lambda: book.llen("ran") == 6, what="all ran")
    assert book.lrange("ran", 0, -1) == [str(number) for number in range(6)]
