"""A solo worker runs inside the delivery of its messages: what it took at once must not keep others waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.chaos.fleet import CODE, MILL

SHORT, LONG = 300, 30
LONG_S = 0.1


@dataclass
class Mill:
    """Solo workers with windows of 30, a stock publisher, and the book of what began and ended."""

    app: Celery
    broker: redis.Redis
    book: redis.Redis
    folder: Path
    stack: ExitStack

    def worker(self, name: str) -> WorkerProcess:
        url = f"redis://127.0.0.1:{self.broker.connection_pool.connection_kwargs['port']}"
        env = {"MILL_REDIS": url, "MILL_BOOK": f"{url}/2", "MILL_PREFETCH": "30", "PYTHONPATH": CODE}
        made = WorkerProcess(MILL, name, self.folder, pool="solo", concurrency=1, env=env)
        return self.stack.enter_context(made)

    def send(self, first: int, count: int, busy_s: float) -> None:
        """All of them are on the queue at once."""
        for number in range(first, first + count):
            self.app.send_task("tasks.grind", (number, busy_s), queue="aside", ignore_result=True)
        if not self.broker.renamenx("aside", "celery"):
            while self.broker.lmove("aside", "celery", "RIGHT", "LEFT"):
                pass

    def written(self, event: str) -> list[tuple[int, int]]:
        """Task and process, in the order in which they began or ended."""
        rows = [json.loads(row) for row in self.book.lrange("book", 0, -1)]
        return [(number, main) for what, number, _, _, main, _ in rows if what == event]

    def claimed(self) -> int:
        return sum(field.isdigit() for key in self.broker.keys("*:claims:*") for field in self.broker.hkeys(key))


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    with ExitStack() as stack:
        url = f"redis://127.0.0.1:{stack.enter_context(RedisServer()).port}"
        broker, book = (stack.enter_context(redis.Redis.from_url(f"{url}/{number}")) for number in (0, 2))
        app = stack.enter_context(Celery("stock", broker=f"{url}/0", set_as_current=False))
        yield Mill(app, broker, book, tmp_path, stack)


def test_it_acknowledges_between_two_tasks_of_a_turn_and_gives_back_what_would_wait_long(mill: Mill) -> None:
    mill.send(0, SHORT, 0.0)
    mill.send(SHORT, LONG, LONG_S)
    mill.worker("solo")
    while (left := SHORT + LONG - len(mill.written("end"))) > 5:
        if left < LONG:
            claimed = mill.claimed()
            assert claimed <= left + 1, "what ended is acknowledged before the next one begins"
            assert claimed <= 4 or left > LONG // 2, "it has no more than it runs in a moment"
    until(lambda: len(mill.written("end")) == SHORT + LONG, what="all ended")
    assert [number for number, _ in mill.written("begin")] == list(range(SHORT + LONG)), "in order, and once"
