"""A chord whose last part dies on the way to the body: its next run goes on, however soon it comes."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from celery import Celery, chord

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.chaos.feeder import Unheard
from tests.chaos.fleet import CODE, MILL


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_body_runs_though_who_claimed_it_was_killed(tmp_path: Path, pool: str) -> None:
    """In prefork a child dies, in threads the whole worker."""
    with RedisServer() as server, ExitStack() as stack:
        url = f"redis://127.0.0.1:{server.port}"
        env = {"MILL_REDIS": url, "MILL_BOOK": f"{url}/2", "MILL_DIES_BEFORE": "tasks.gather", "PYTHONPATH": CODE}
        workers = [WorkerProcess(MILL, name, tmp_path, pool=pool, env=env) for name in "ab"]
        for worker in workers:
            stack.callback(worker.stop)
            worker.start()
        for worker in workers:
            worker.wait_ready()
        backend = f"{Unheard.__module__}:{Unheard.__name__}+{url}/1"
        with Celery("stock", broker=f"{url}/0", backend=backend, set_as_current=False) as app:
            parts = [app.signature("tasks.grind", (number, 0)) for number in range(3)]
            chord(parts, app=app)(app.signature("tasks.gather", (3, 0)))
        with redis.Redis.from_url(f"{url}/2") as book:
            ended = until(lambda: _ended(book) if "3" in _ended(book) else None, what="the body ran")
            assert book.get("died") == b"2", "it was killed once, and once it was not"
            assert ended["3"] == 1


def _ended(book: redis.Redis) -> Counter[str]:
    marks = [line.decode().strip("[]").split(", ") for line in book.lrange("book", 0, -1)]
    return Counter(number for event, number, *_ in marks if event == '"end"')
