"""On a Redis before 6.2 a worker says so in one sentence and uses kombu's transport, with recovery by owner."""

from __future__ import annotations

from pathlib import Path

import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.integration.conftest import SHOP

SENTENCE = "this Redis is older than 6.2"


def test_a_worker_on_an_old_server_says_so_once_works_and_is_recovered(tmp_path: Path) -> None:
    """The server of the test does not know the command, as an old one does not."""
    with RedisServer(directives={"rename-command": 'LMOVE ""'}) as server:
        url = f"redis://127.0.0.1:{server.port}"
        env = {"SHOP_REDIS": url}
        with (
            redis.Redis(port=server.port, db=2, decode_responses=True) as book,
            redis.Redis(port=server.port, decode_responses=True) as broker,
            Celery("stock", broker=f"{url}/0", set_as_current=False) as app,
            WorkerProcess(SHOP, "first", tmp_path, env=env) as first,
        ):
            for number in range(9):
                app.send_task("tasks.hold", (number,), ignore_result=True)
            app.send_task("tasks.note", (99,), ignore_result=True, countdown=1)
            until(lambda: book.llen("began") == 2 and broker.keys("*:unacked:*"), what="it works")
            first.kill()
            book.set("go", "1")
            with WorkerProcess(SHOP, "second", tmp_path, env=env) as second:
                until(lambda: len(set(book.lrange("ran", 0, -1))) == 10, what="what the first held ran on the second")
                until(lambda: not broker.keys("*:unacked:*"), what="all was acknowledged")
            assert (first.log() + second.log()).count(SENTENCE) == 2
            assert "Traceback" not in second.log()
            assert "cmdstat_blmove" not in broker.info("commandstats")
