"""A solo worker runs inside the delivery of its messages; what ended must not wait until the last of them has."""

from __future__ import annotations

from pathlib import Path

import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.chaos.fleet import CODE, MILL

TASKS = 20


def test_a_solo_worker_acknowledges_between_two_tasks_of_one_turn(tmp_path: Path) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url()) as broker:
        url, env = f"redis://127.0.0.1:{server.port}", {"MILL_PREFETCH": "30", "PYTHONPATH": CODE}
        book_url = f"{url}/2"
        with Celery("stock", broker=f"{url}/0", set_as_current=False) as app:
            for number in range(TASKS):
                app.send_task("tasks.grind", (number, 0.1), ignore_result=True)
        worker = WorkerProcess(
            MILL, "solo", tmp_path, pool="solo", concurrency=1, env={"MILL_REDIS": url, "MILL_BOOK": book_url, **env}
        )
        with worker, redis.Redis.from_url(book_url) as book:
            until(lambda: book.llen("book") >= 9, what="four ended and the fifth runs")
            begun = (book.llen("book") + 1) // 2
            claimed = sum(field.isdigit() for key in broker.keys("*:claims:*") for field in broker.hkeys(key))
            assert 0 < claimed <= TASKS - (begun - 1)
            until(lambda: book.llen("book") == 2 * TASKS, what="all ended")
