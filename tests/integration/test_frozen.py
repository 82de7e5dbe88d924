"""A worker that was frozen past its lease: what it had not begun runs elsewhere only, its late ends are counted."""

from __future__ import annotations

import re
import signal
from collections import Counter

import pytest
import redis

from resilience.testing import until
from tests.integration.conftest import StartWorkers
from tests.integration.test_transport import claimed, send, stock_app

SHORT_LEASE = {"RESILIENCE_SILENT_S": "2"}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_it_drops_what_it_had_not_begun_and_counts_what_it_ended_too_late(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers, pool: str
) -> None:
    (frozen,) = workers({"name": "frozen"}, pool=pool, env=SHORT_LEASE)
    send(stock_app(shop_redis), 0, 4, task="tasks.hold")
    until(lambda: book.llen("began") == 2 and claimed(broker) == 4, what="two run, two wait behind them")
    frozen.kill(signal.SIGSTOP)
    workers({"name": "other"}, pool=pool, env=SHORT_LEASE)
    until(lambda: book.llen("began") == 4, what="the other worker has taken over what it held")
    frozen.kill(signal.SIGCONT)
    until(lambda: "took this worker for dead" in frozen.log(), what="it has noticed")
    book.set("go", "1")
    until(lambda: sum(too_late(frozen.log())) == 4, what="it says what came too late")
    until(lambda: claimed(broker) == 0 and broker.llen("celery") == 0, what="all is done")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 4, what="every task ran")
    began = Counter(book.lrange("began", 0, -1))
    assert sum(began.values()) == 6, f"only the two that ran when it was frozen began twice: {began}"
    assert too_late(frozen.log()) == (2, 2)
    send(stock_app(shop_redis), 100, 20, task="tasks.note")
    until(lambda: set(map(str, range(100, 120))) <= set(book.lrange("ran", 0, -1)), what="both go on")


def too_late(log: str) -> tuple[int, int]:
    """How many tasks it ended too late, and how many it dropped, by its own word."""
    found = re.findall(r"was taken for dead: (\d+) .*, (\d+) it did not begin", log)
    return sum(int(late) for late, _ in found), sum(int(dropped) for _, dropped in found)


def test_a_fleet_that_was_paused_takes_nothing_from_one_another(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers
) -> None:
    fleet = workers({"name": "a"}, {"name": "b"}, env=SHORT_LEASE)
    send(stock_app(shop_redis), 0, 8, task="tasks.hold")
    until(lambda: book.llen("began") == 4 and claimed(broker) == 8, what="both windows are full")
    for worker in fleet:
        worker.kill(signal.SIGSTOP)
    since = broker.time()[0]
    until(lambda: broker.time()[0] - since >= 4, what="twice the long lease")
    for worker in fleet:
        worker.kill(signal.SIGCONT)
    book.set("go", "1")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 8 and claimed(broker) == 0, what="every task ran")
    assert Counter(book.lrange("began", 0, -1)) == Counter(map(str, range(8))), "each once"
    assert not any("died" in worker.log() for worker in fleet)
