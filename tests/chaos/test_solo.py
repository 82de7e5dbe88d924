"""A solo worker runs inside the delivery of its messages: what it took at once must not keep others waiting."""

from __future__ import annotations

import json
from pathlib import Path

import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.chaos.fleet import CODE, MILL
from tests.claims import claimed

SHORT, LONG = 300, 30
LONG_S = 0.1


def written(book: redis.Redis, event: str) -> list[int]:
    """The tasks that began or ended, in that order."""
    return [number for what, number, *_ in map(json.loads, book.lrange("book", 0, -1)) if what == event]


def test_it_acknowledges_between_two_tasks_of_a_turn_and_gives_back_what_would_wait_long(tmp_path: Path) -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url()) as broker:
        url, env = f"redis://127.0.0.1:{server.port}", {"MILL_PREFETCH": "30", "PYTHONPATH": CODE}
        book_url = f"{url}/2"
        with Celery("stock", broker=f"{url}/0", set_as_current=False) as app:
            for number in range(SHORT + LONG):
                app.send_task("tasks.grind", (number, 0.0 if number < SHORT else LONG_S), ignore_result=True)
        worker = WorkerProcess(
            MILL, "solo", tmp_path, pool="solo", concurrency=1, env={"MILL_REDIS": url, "MILL_BOOK": book_url, **env}
        )
        with worker, redis.Redis.from_url(book_url) as book:
            while (left := SHORT + LONG - len(written(book, "end"))) > 5:
                if left < LONG:
                    held = claimed(broker)
                    assert held <= left + 1, "what ended is acknowledged before the next one begins"
                    assert held <= 4 or left > LONG // 2, "it has no more than it runs in a moment"
            until(lambda: len(written(book, "end")) == SHORT + LONG, what="all ended")
            assert written(book, "begin") == list(range(SHORT + LONG)), "in order, and once"
