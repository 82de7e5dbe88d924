"""Tasks with a countdown or an eta on real workers: they wait in Redis, run in time, and Celery's commands know them.

How late they are is measured by the tasks themselves. The bounds are loose, for a machine under load; the figures
that a quiet machine reaches are in docs/delivery.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from resilience.delivery.broker import Broker
from resilience.delivery.delayed import Delayed
from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.claims import claimed

AGENDA = Path(__file__).parent.parent / "foreign" / "agenda"
LATE_S = 5.0

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(shop_redis: str, tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start(name: str, url: str = shop_redis, env: dict[str, str] | None = None, **options: Any) -> WorkerProcess:
        worker = WorkerProcess(AGENDA, name, tmp_path, env={"AGENDA_REDIS": url, **(env or {})}, **options)
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


@pytest.fixture
def stock(shop_redis: str) -> Iterator[Celery]:
    """A publisher that knows nothing of the middleware."""
    with Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False) as app:
        yield app


@pytest.fixture
def delayed(stock: Celery) -> Iterator[Delayed]:
    broker = Broker(stock)
    yield Delayed(broker, "celeriac")
    broker.close()


def send_later(app: Celery, count: int, in_s: float, first: int = 0) -> list[str]:
    """Ids of tasks that are all due at the same moment."""
    due_s = time.time() + in_s
    eta = datetime.fromtimestamp(due_s, timezone.utc)
    numbers = range(first, first + count)
    return [app.send_task("tasks.note", (number, due_s), eta=eta, ignore_result=True).id for number in numbers]


def ran(book: redis.Redis) -> Counter[Any]:
    return Counter(json.loads(row)[0] for row in book.lrange("ran", 0, -1))


def worst_s(book: redis.Redis) -> float:
    return max(json.loads(row)[1] for row in book.lrange("ran", 0, -1))


def test_a_thousand_that_are_due_later_leave_the_window_free(
    start: Start, stock: Celery, delayed: Delayed, book: redis.Redis, broker: redis.Redis
) -> None:
    start("w").wait_ready()
    send_later(stock, 1000, in_s=3600)
    stock.send_task("tasks.note", ("now",))
    until(lambda: ran(book) == Counter({"now": 1}), what="the one without an eta ran")
    until(lambda: delayed.count() == 1000, what="the others wait in Redis")
    until(lambda: claimed(broker) == 0, what="the worker holds nothing")
    assert broker.llen("celery") == 0


def test_without_the_transport_the_worker_holds_them(start: Start, stock: Celery, broker: redis.Redis) -> None:
    """The twin of the one above."""
    start("w", env={"RESILIENCE_TRANSPORT_ENABLED": "false"}).wait_ready()
    send_later(stock, 100, in_s=3600)
    until(lambda: sum(broker.hlen(key) for key in broker.keys("*:unacked:*")) == 100, what="all are in its memory")


def test_a_death_of_every_worker_loses_none_and_makes_none_late(
    start: Start, stock: Celery, delayed: Delayed, book: redis.Redis, broker: redis.Redis
) -> None:
    fleet = [start("a"), start("b", pool="threads")]
    for worker in fleet:
        worker.wait_ready()
    send_later(stock, 20, in_s=1.5)
    send_later(stock, 20, in_s=8, first=20)
    until(lambda: delayed.count() == 40 or sum(ran(book).values()), what="they were handed over")
    fleet[0].kill()
    until(lambda: ran(book) == Counter(range(20)), what="one worker's death stops nothing")
    until(lambda: not claimed(broker), what="what ended is acknowledged: else it would run again")
    fleet[1].kill()
    assert delayed.count() == 20
    start("c", pool="solo", concurrency=1).wait_ready()
    until(lambda: ran(book) == Counter(range(40)), what="each ran once")
    assert worst_s(book) < LATE_S


def test_a_restart_of_redis_in_between_loses_none(start: Start, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", appendonly=True) as server:
        url = server.url().rpartition("/")[0]
        start("w", url).wait_ready()
        with Celery("stock", broker=f"{url}/0", set_as_current=False) as app:
            send_later(app, 20, in_s=4)
            broker = Broker(app)
            until(lambda: Delayed(broker, "celeriac").count() == 20, what="they were handed over")
            broker.close()
        server.restart()
        with redis.Redis.from_url(f"{url}/2", decode_responses=True) as book:
            until(lambda: ran(book) == Counter(range(20)), within_s=30, what="each ran once")
            assert worst_s(book) < LATE_S


def test_revoke_discards_a_task_at_once_that_is_due_much_later(
    start: Start, stock: Celery, delayed: Delayed, book: redis.Redis, broker: redis.Redis
) -> None:
    fleet = [start("a"), start("b")]
    for worker in fleet:
        worker.wait_ready()
    first, second, _third = send_later(stock, 3, in_s=3600)
    until(lambda: delayed.count() == 3, what="they were handed over")
    stock.control.revoke(first)
    until(lambda: delayed.count() == 2, what="it is no longer there")
    stock.control.revoke([second], terminate=True)
    until(lambda: delayed.count() == 1, what="nor is this one")

    def discarded() -> set[str]:
        log = "".join(worker.log() for worker in fleet)
        return {task_id for task_id in (first, second) if f"Discarding revoked task: tasks.note[{task_id}]" in log}

    until(lambda: discarded() == {first, second}, what="Celery discarded them in its own way")
    assert [stock.backend.get_state(task_id) for task_id in (first, second)] == ["REVOKED", "REVOKED"]
    until(lambda: claimed(broker) == 0 and broker.llen("celery") == 0, what="nothing of them is left")
    assert not ran(book)


def test_inspect_lists_each_once_and_purge_removes_all(start: Start, stock: Celery, delayed: Delayed) -> None:
    fleet = [start("a"), start("b")]
    for worker in fleet:
        worker.wait_ready()
    sent = send_later(stock, 5, in_s=3600)
    until(lambda: delayed.count() == 5, what="they were handed over")
    inspect = stock.control.inspect(["a@test", "b@test"], timeout=10)
    answers = inspect.scheduled()
    assert set(answers) == {"a@test", "b@test"}
    entries = [entry for answer in answers.values() for entry in answer]
    assert sorted(entry["request"]["id"] for entry in entries) == sorted(sent)
    one = next(entry for entry in entries if entry["request"]["id"] == sent[3])
    assert one["request"]["args"][0] == 3
    assert one["request"]["name"] == "tasks.note"
    assert one["request"]["delivery_info"]["routing_key"] == "celery"
    assert 3000 < datetime.fromisoformat(one["eta"]).timestamp() - time.time() < 3700
    found = [answer[sent[0]] for answer in inspect.query_task(sent[0]).values() if answer]
    assert [(state, request["id"]) for state, request in found] == [("scheduled", sent[0])]
    purge = [sys.executable, "-m", "celery", "-A", "tasks", "purge", "-f"]
    env = {**os.environ, "AGENDA_REDIS": stock.conf.broker_url.rpartition("/")[0]}
    done = subprocess.run(purge, cwd=AGENDA, env=env, capture_output=True, text=True, check=True)
    assert "Purged 5 messages" in done.stdout
    assert delayed.count() == 0


def test_everything_of_celery_that_comes_later_comes(
    start: Start, stock: Celery, delayed: Delayed, book: redis.Redis
) -> None:
    """Chains, retries, protocol 1, an eta without a zone, an expiry, a revoked stamp."""
    start("w", pool="threads").wait_ready()
    now = datetime.now(timezone.utc)
    chained = (
        stock.signature("tasks.add", (1, 1)).set(countdown=1) | stock.signature("tasks.add", (1,)).set(countdown=1)
    )()
    retried = stock.send_task("tasks.again", ("again", 0.6))
    naive = stock.send_task("tasks.note", ("naive",), eta=(now + timedelta(seconds=1)).replace(tzinfo=None))
    zoned = now.astimezone(timezone(timedelta(hours=-5))) + timedelta(seconds=1)
    abroad = stock.send_task("tasks.note", ("abroad",), eta=zoned)
    planned = stock.send_task("tasks.with_a_plan", ("planned",), countdown=1)
    expired = stock.send_task("tasks.note", ("expired",), countdown=2, expires=1)
    stamped = stock.signature("tasks.note", ("stamped",)).set(countdown=2)
    stamped.stamp(order="4711")
    stamped = stamped.apply_async()
    with Celery("old", broker=stock.conf.broker_url, set_as_current=False) as old:
        old.conf.task_protocol = 1
        old.send_task("tasks.note", ("protocol 1",), countdown=1)
    stock.control.revoke_by_stamped_headers({"order": ["4711"]})
    results = [chained, retried, naive, abroad, planned]
    assert [result.get(timeout=20) for result in results].count(3) == 1
    until(lambda: (expired.state, stamped.state) == ("REVOKED", "REVOKED"), what="Celery discarded both when due")
    names = ["added", "added", "again after 2 retries", "naive", "abroad", "planned", "protocol 1"]
    until(lambda: ran(book) == Counter(names), what="each ran once")
    assert delayed.count() == 0


def test_a_stock_worker_gets_what_was_released_for_it(
    start: Start, stock: Celery, delayed: Delayed, book: redis.Redis
) -> None:
    worker = start("ours", pool="solo", concurrency=1)
    worker.wait_ready()
    send_later(stock, 5, in_s=4)
    until(lambda: delayed.count() == 5, what="they were handed over")
    worker.stop()
    assert delayed.release_all() == 5
    start("stock", env={"RESILIENCE_ENABLED": "false"}, pool="solo", concurrency=1).wait_ready()
    until(lambda: ran(book) == Counter(range(5)), what="the stock worker ran them")
    assert worst_s(book) < LATE_S
