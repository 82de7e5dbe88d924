"""A worker out of rotation: it takes nothing, what it had not begun goes back in order, and it returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.testing import WorkerProcess, until

FORGE = Path(__file__).parent.parent / "foreign" / "forge"

StartForge = Callable[..., WorkerProcess]


@pytest.fixture
def forge(shop_redis: str, tmp_path: Path) -> Iterator[StartForge]:
    """Start a worker of the forge: `forge("a", pool="threads", FORGE_PREFETCH="8")`. It boots; wait for it."""
    started: list[WorkerProcess] = []

    def start(name: str, *, pool: str = "prefork", concurrency: int = 2, **env: str) -> WorkerProcess:
        worker = WorkerProcess(
            FORGE, name, tmp_path, pool=pool, concurrency=concurrency,
            env={"FORGE_REDIS": shop_redis, "FORGE_NAME": name, **env},
        )  # fmt: skip
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


@pytest.fixture
def customers(shop_redis: str) -> Iterator[Celery]:
    """Sends tasks as a stock app does."""
    with Celery("customers", broker=f"{shop_redis}/0", set_as_current=False) as app:
        yield app


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_out_of_rotation_it_gives_back_in_order_what_it_had_not_begun_and_takes_nothing_until_it_returns(
    pool: str, forge: StartForge, customers: Celery, book: redis.Redis, broker: redis.Redis
) -> None:
    count, slots = 40, 1 if pool == "solo" else 2
    worker = forge("a", pool=pool, concurrency=slots, FORGE_OBEYS="1", FORGE_PREFETCH="8")
    worker.wait_ready()
    for number in range(count):
        customers.send_task("tasks.hold", (number,), ignore_result=True)
    until(lambda: book.llen("began") == slots, what="it is at work")
    if pool != "solo":  # which asks for more when the task is done
        until(lambda: broker.llen("celery") <= count - 8, what="and holds more than it runs")

    book.set("out:a", "its fire went out")
    until(lambda: broker.llen("celery") == count - slots, what="all but what it runs is back")
    lie = [int(json.loads(raw)["headers"]["argsrepr"].strip("(,)")) for raw in broker.lrange("celery", 0, -1)]
    assert lie == sorted(lie, reverse=True), "the next one is taken from the right"
    (record,) = broker.keys("celeriac:v1:worker:*")
    until(lambda: "fire went out" in (broker.hget(record, "out_of_rotation") or ""), what="its record says why")
    book.set("go", "1")
    until(lambda: book.llen("forged:a") == slots, what="what ran ran on")
    book.delete("out:a")
    until(lambda: book.llen("forged:a") == count, what="it is back")
    assert sorted(book.lrange("began", 0, -1), key=int) == [str(number) for number in range(count)]
