"""A SIGKILLed worker's messages come back in seconds; with the mechanism off they do not."""

from __future__ import annotations

import os
import signal
import time

import pytest
import redis
from celery import Celery

from resilience.testing import until
from tests.integration.conftest import StartWorkers

HELD = 4  # prefetch multiplier 2 x concurrency 2


def stock_app(url: str) -> Celery:
    """A publisher that knows nothing of the middleware."""
    return Celery("stock", broker=f"{url}/0", backend=f"{url}/1")


def fill(app: Celery, count: int) -> list[str]:
    return [app.send_task("tasks.hold", (number,)).id for number in range(count)]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_killed_workers_messages_run_on_another_worker_within_seconds(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers, pool: str
) -> None:
    victim, other = workers({"name": "victim"}, {"name": "other"}, pool=pool, concurrency=2 if pool != "solo" else 1)
    window = HELD if pool != "solo" else 1  # solo runs what it takes before it takes more
    app = stock_app(shop_redis)
    fill(app, 2 * window + 3)
    until(lambda: broker.llen("celery") == 3, what="both windows full")
    killed_at = time.monotonic()
    victim.kill()
    until(lambda: broker.llen("celery") == 3 + window, within_s=6, what="the dead worker's messages on the queue")
    took_s = time.monotonic() - killed_at
    assert took_s < 5
    book.set("go", "1")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 2 * window + 3, what="every task ran")
    assert f"died: {window} messages back" in other.log()
    until(lambda: not broker.keys("*unacked*"), what="nothing left unacknowledged")


def test_without_recovery_the_same_kill_strands_its_messages(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers
) -> None:
    off = {"RESILIENCE_RECOVERY_ENABLED": "false"}
    victim, _other = workers({"name": "victim"}, {"name": "other"}, env=off)
    app = stock_app(shop_redis)
    fill(app, 2 * HELD + 3)
    until(lambda: broker.llen("celery") == 3, what="both windows full")
    victim.kill()
    book.set("go", "1")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == HELD + 3, what="the survivor's tasks ran")
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: len(set(book.lrange("ran", 0, -1))) > HELD + 3, within_s=5)


def test_a_frozen_workers_messages_come_back_after_the_long_lease_and_it_wakes_up_unharmed(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers
) -> None:
    short = {"RESILIENCE_SILENT_S": "2"}
    frozen, other = workers({"name": "frozen"}, {"name": "other"}, env=short)
    app = stock_app(shop_redis)
    fill(app, 2 * HELD)
    until(lambda: broker.llen("celery") == 0 and book.llen("began") == 4, what="both windows full")
    frozen.kill(signal.SIGSTOP)
    until(lambda: broker.llen("celery") == HELD, within_s=8, what="the frozen worker's messages on the queue")
    frozen.kill(signal.SIGCONT)
    book.set("go", "1")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 2 * HELD, what="every task ran")
    until(lambda: not broker.keys("*unacked*"), what="nothing left unacknowledged")
    assert f"died: {HELD} messages back" in other.log()
    app.send_task("tasks.hold", (99,), ignore_result=True)
    until(lambda: "99" in book.lrange("ran", 0, -1))


def test_a_task_whose_child_is_killed_runs_again_in_another_child(
    shop_redis: str, book: redis.Redis, workers: StartWorkers
) -> None:
    (worker,) = workers({"name": "w1", "concurrency": 1})
    result = stock_app(shop_redis).send_task("tasks.hold", (1,))
    until(lambda: book.llen("began") == 1)
    os.kill(worker.children()[0].pid, signal.SIGKILL)
    until(lambda: book.llen("began") == 2, within_s=8, what="the task began again")
    book.set("go", "1")
    assert result.get(timeout=10) == 1


def test_the_end_of_a_child_is_seen_at_once(shop_redis: str, workers: StartWorkers) -> None:
    """Celery sees one in two to ten of them with its next round, up to 5 s later: a slot is missing until then."""
    (worker,) = workers({"name": "w1"}, concurrency=2)
    for _ in range(6):
        until(lambda: len(worker.children()) == 2, what="both are there")
        pid = worker.children()[0].pid
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: f"pid:{pid} exited" in worker.log(), within_s=2.5, what="its end is logged")


def test_a_task_that_kills_every_child_ends_as_a_failure_and_its_neighbours_run(
    shop_redis: str, book: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "w1"})
    book.set("go", "1")
    app = stock_app(shop_redis)
    bad = app.send_task("tasks.poison")
    good = [app.send_task("tasks.hold", (number,)) for number in range(10)]
    assert [result.get(timeout=20) for result in good] == list(range(10))
    with pytest.raises(Exception, match=r"exited prematurely|WorkerLostError"):
        bad.get(timeout=25)
    assert book.llen("poisoned") == 4  # the first run and three retries


def test_a_worker_that_stops_warmly_leaves_nothing_behind(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers
) -> None:
    (worker,) = workers({"name": "w1"})
    fill(stock_app(shop_redis), HELD + 2)
    until(lambda: book.llen("began") == 2)
    worker.kill(signal.SIGTERM)
    book.set("go", "1")
    assert worker.stop() == 0
    assert book.llen("ran") == 2
    assert broker.llen("celery") == HELD, "what had not begun is on the queue again"
    assert not broker.keys("*unacked*")
    assert broker.zcard("celeriac:v1:workers") == 0, "it said goodbye"
