"""The executor of Celery's pool of threads without its count of idle ones: as many threads, every call runs once."""

from __future__ import annotations

import threading
from collections import Counter

from celery.concurrency.thread import TaskPool

from resilience.workers.threads import count_no_idle


def test_it_has_as_many_threads_as_before_and_every_call_runs_once() -> None:
    pool = TaskPool(4)
    count_no_idle(pool)
    together = threading.Barrier(4)
    ran: Counter[int] = Counter()
    told: list[int] = []

    def work(number: int) -> int:
        if number < 4:
            together.wait(timeout=20)  # all four are there, and run at the same time
        ran[number] += 1
        return number

    for number in range(200):
        pool.on_apply(work, (number,), callback=told.append)
    pool.executor.shutdown(wait=True)
    assert ran == Counter(range(200))
    assert sorted(told) == list(range(200))
    assert len(pool.executor._threads) == 4


def test_what_is_no_pool_of_threads_stays_as_it_is() -> None:
    count_no_idle(object())
