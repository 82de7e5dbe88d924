"""An upstream that drops every call and 2,000 tasks that want to try again: the fleet's budget holds the storm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.testing import WorkerProcess, until

DEPOT = Path(__file__).parent.parent / "foreign" / "depot"
TASKS = 2_000
RETRIES_PER_TASK = 3  # communication_error, by the matrix

Fleet = Callable[..., list[WorkerProcess]]


@pytest.fixture
def fleet(shop_redis: str, tmp_path: Path) -> Iterator[Fleet]:
    """Two workers of the depot."""
    started: list[WorkerProcess] = []

    def start(**env: str) -> list[WorkerProcess]:
        for name in ("w1", "w2"):
            worker = WorkerProcess(DEPOT, log_dir=tmp_path, env={"DEPOT_REDIS": shop_redis, **env}, name=name)
            started.append(worker)
            worker.start()
        for worker in started:
            worker.wait_ready()
        return started

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


def run_the_storm(shop_redis: str, book: redis.Redis, tasks: int) -> tuple[int, float]:
    """How many calls reached the upstream beyond the first one of each task, and how long it took."""
    began = time.monotonic()
    with Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app:
        for number in range(tasks):
            app.send_task("tasks.ask", (number,), ignore_result=True)
    until(lambda: int(book.get("ended") or 0) >= tasks, within_s=100, what="every task has ended")
    return int(book.get("calls") or 0) - tasks, time.monotonic() - began


@pytest.mark.timeout(150)
def test_extra_calls_stay_within_the_budget_of_the_fleet(shop_redis: str, fleet: Fleet, book: redis.Redis) -> None:
    workers = fleet()
    extra, took_s = run_the_storm(shop_redis, book, TASKS)
    allowed = 0.2 * TASKS + 3.0 * (took_s + 10.0)  # the share of calls, and the floor for this time and one window
    assert 0 < extra <= allowed
    assert any("the retry budget of its circuit is spent" in worker.log() for worker in workers)


@pytest.mark.timeout(150)
def test_without_the_budget_the_same_storm_multiplies_the_calls(
    shop_redis: str, fleet: Fleet, book: redis.Redis
) -> None:
    fleet(RESILIENCE_RETRY_BUDGET_PER_S="100000")
    extra, _ = run_the_storm(shop_redis, book, tasks=400)
    assert extra == RETRIES_PER_TASK * 400
