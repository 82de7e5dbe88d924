"""Redis goes away: the breaker's store, then the broker itself. Work goes on, or goes on again; nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.integration.conftest import SHOP, StartWorkers


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that this test may kill; append-only, so a restart keeps what it had."""
    with RedisServer(tmp_path / "redis", appendonly=True) as server:
        yield server


def test_tasks_run_on_while_the_breaker_store_is_dead_and_it_is_said(
    shop_redis: str, workers: StartWorkers, tmp_path: Path
) -> None:
    with RedisServer() as store:
        (worker,) = workers({"name": "w1"}, env={"RESILIENCE_REDIS_URL": store.url()})
        app = Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1")
        assert app.send_task("tasks.flaky", (0,)).get(timeout=10) == 1
        store.kill()
        began = time.monotonic()
        sent = [app.send_task("tasks.flaky", (0,)) for _ in range(30)]
        assert [result.get(timeout=10) for result in sent] == [1] * 30
        assert time.monotonic() - began < 5
        until(lambda: "breaker store away" in worker.log(), what="the log says so")
        store.restart()
        until(lambda: "breaker store back" in worker.log(), what="the log says that it is back")
        app.close()


def test_a_restart_of_the_broker_in_the_middle_of_work_loses_nothing(own_broker: RedisServer, tmp_path: Path) -> None:
    url = own_broker.url().rpartition("/")[0]
    env = {"SHOP_REDIS": url}
    with WorkerProcess(SHOP, "w1", tmp_path, env=env) as worker, WorkerProcess(SHOP, "w2", tmp_path, env=env):
        app = Celery("stock", broker=f"{url}/0")
        for number in range(12):
            app.send_task("tasks.hold", (number,), ignore_result=True)
        app.close()
        with redis.Redis.from_url(f"{url}/2", decode_responses=True) as book:
            until(lambda: book.llen("began") == 4)
        own_broker.restart()
        with redis.Redis.from_url(f"{url}/2", decode_responses=True) as book:
            book.set("go", "1")
            until(lambda: len(set(book.lrange("ran", 0, -1))) == 12, within_s=40, what="every task ran")
        with redis.Redis.from_url(f"{url}/0", decode_responses=True) as broker:
            until(lambda: not broker.keys("*unacked*"), within_s=15, what="nothing is held any more")
        assert "celeriac: pulse failed" not in worker.log()


def test_workers_survive_a_broker_that_is_killed_under_their_acknowledgements(
    own_broker: RedisServer, tmp_path: Path
) -> None:
    url = own_broker.url().rpartition("/")[0]
    env = {"SHOP_REDIS": url}
    with WorkerProcess(SHOP, "w1", tmp_path, env=env) as one, WorkerProcess(SHOP, "w2", tmp_path, env=env) as two:
        for storm in range(4):
            with Celery("stock", broker=f"{url}/0", set_as_current=False) as app:
                for _ in range(300):
                    app.send_task("tasks.flaky", (0,), ignore_result=True)
            before = len(one.log()) + len(two.log())
            until(lambda start=before: "succeeded" in (one.log() + two.log())[start:], what=f"storm {storm}: they work")
            own_broker.restart()
        with redis.Redis.from_url(f"{url}/2") as book:
            book.set("go", "1")
        with Celery("stock", broker=f"{url}/0", backend=f"{url}/1", set_as_current=False) as app:
            for worker in (one, two):
                until(
                    lambda name=worker.name: app.control.ping(destination=[f"{name}@test"], timeout=0.5),
                    within_s=30,
                    what=f"{worker.name} answers",
                )
            assert app.send_task("tasks.hold", (1,)).get(timeout=20) == 1
        for worker in (one, two):
            assert "Unrecoverable error" not in worker.log()
