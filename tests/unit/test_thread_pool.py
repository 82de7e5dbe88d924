"""Celery's pool of threads with our executor: every call runs once, in order, and none waits while a thread is free."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from celery.concurrency.thread import TaskPool
from celery.exceptions import TaskRevokedError

from resilience.delivery.held import Held
from resilience.workers import pace
from resilience.workers.pace import LOOK_S
from resilience.workers.threads import Threads, run_one_by_one

ENOUGH_S = 20.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(4)
    yield made
    made.shutdown()


def one_by_one(threads: Threads) -> None:
    """It has run short calls until it runs them so."""
    ended_at = time.monotonic() + ENOUGH_S
    while not threads.one_by_one() or len(threads._threads) < 1:
        over = threading.Event()
        threads.submit(over.set)
        assert over.wait(ENOUGH_S)
        assert time.monotonic() < ended_at


def test_celerys_pool_has_it_run_every_call_once_in_as_many_threads_as_before() -> None:
    pool, held = TaskPool(4), Held("test", "worker")
    run_one_by_one(pool, held)
    together = threading.Barrier(4)
    ran: Counter[int] = Counter()
    told: list[int] = []

    def work(number: int) -> int:
        if number < 4:
            together.wait(timeout=ENOUGH_S)  # all four are there, and run at the same time
        ran[number] += 1
        return number

    for number in range(200):
        pool.on_apply(work, (number,), callback=told.append)
    pool.executor.shutdown(wait=True)
    assert ran == Counter(range(200))
    assert sorted(told) == list(range(200))
    assert pool._get_info()["threads"] == 4
    assert isinstance(held.one_by_one(), bool)


def test_what_is_no_pool_of_threads_or_is_somebodys_own_stays_as_it_is() -> None:
    class Own(TaskPool):
        def on_apply(self, *args: Any, **options: Any) -> Any:
            return super().on_apply(*args, **options)

    held, own = Held("test", "worker"), Own(2)
    for pool in (object(), own):
        run_one_by_one(pool, held)
    assert not held.one_by_one()
    assert own.on_apply(print, (), callback=print).f.result(timeout=ENOUGH_S) is None
    own.on_stop()


def test_short_calls_run_one_by_one_in_their_order(threads: Threads) -> None:
    one_by_one(threads)
    ran: list[int] = []
    over = threading.Event()
    for number in range(500):
        threads.submit(ran.append, number)
    threads.submit(over.set)
    assert over.wait(ENOUGH_S)
    assert ran == list(range(500))


@pytest.mark.parametrize("limit", [2, 4])
def test_a_call_does_not_wait_for_one_that_waits(limit: int) -> None:
    threads = Threads(limit)
    one_by_one(threads)
    gate, over = threading.Event(), threading.Event()
    ran: list[int] = []
    try:
        threads.submit(gate.wait, ENOUGH_S)
        for number in range(50):
            threads.submit(ran.append, number)
        threads.submit(over.set)
        assert over.wait(ENOUGH_S / 2)
        assert sorted(ran) == list(range(50))
    finally:
        gate.set()
        threads.shutdown()


def test_calls_that_wait_for_less_than_a_look_soon_run_side_by_side(threads: Threads) -> None:
    one_by_one(threads)
    order: list[str] = []
    over = threading.Semaphore(0)

    def wait_a_little() -> None:
        order.append("begun")
        time.sleep(0.9 * LOOK_S)
        order.append("ended")
        over.release()

    for _ in range(100):
        threads.submit(wait_a_little)
    assert all(over.acquire(timeout=ENOUGH_S) for _ in range(100))
    assert "begun begun" in " ".join(order[:100]), "before half were over, some ran side by side"


def test_without_the_watch_it_would(monkeypatch: pytest.MonkeyPatch, threads: Threads) -> None:
    monkeypatch.setattr(pace, "LOOK_S", 1.0)
    one_by_one(threads)
    gate, over = threading.Event(), threading.Event()
    threads.submit(gate.wait, ENOUGH_S)
    threads.submit(over.set)
    assert not over.wait(50 * LOOK_S)
    gate.set()
    assert over.wait(ENOUGH_S)


def test_calls_that_wait_get_a_thread_each_at_once(threads: Threads) -> None:
    for _ in range(100):
        threads.submit(time.sleep, 0.002)
    together, over = threading.Barrier(4), threading.Semaphore(0)

    def meet() -> None:
        together.wait(ENOUGH_S)
        over.release()

    for _ in range(8):
        threads.submit(meet)
    assert all(over.acquire(timeout=ENOUGH_S) for _ in range(8))
    assert not threads.one_by_one()


def test_calls_that_come_from_many_threads_and_wait_now_and_then_all_run(threads: Threads) -> None:
    ran: Counter[tuple[int, int]] = Counter()

    def work(name: tuple[int, int], pause_s: float) -> None:
        if pause_s:
            time.sleep(pause_s)
        ran[name] += 1

    def feed(feeder: int) -> None:
        draw = Random(feeder)
        for number in range(2_000):
            threads.submit(work, (feeder, number), draw.choice((0,) * 200 + (0.0005, 0.003)))
            if draw.random() < 0.01:
                time.sleep(draw.choice((0, 0.001, 0.015)))  # the line runs dry, and the watch may end

    feeders = [threading.Thread(target=feed, args=(feeder,)) for feeder in range(3)]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()
    threads.shutdown()
    assert ran == Counter((feeder, number) for feeder in range(3) for number in range(2_000))


def test_an_error_of_celerys_own_ends_no_thread_and_is_told(threads: Threads, caplog: pytest.LogCaptureFixture) -> None:
    def fails(error: BaseException) -> None:
        raise error

    over = threading.Event()
    threads.submit(fails, TaskRevokedError("others may own it"))
    threads.submit(fails, SystemExit(3))
    threads.submit(over.set)
    assert over.wait(ENOUGH_S)
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in told] == [
        "celeriac: a pool's thread goes on after an error in Celery's handling of a task"
    ]


def test_the_end_drops_what_is_in_line_and_waits_for_what_runs() -> None:
    threads = Threads(1)
    begun, gate = threading.Event(), threading.Event()
    ran: list[str] = []

    def work() -> None:
        begun.set()
        gate.wait(ENOUGH_S)
        ran.append("the one that ran")

    threads.submit(work)
    threads.submit(ran.append, "the one in line")
    assert begun.wait(ENOUGH_S)
    threading.Timer(0.05, gate.set).start()
    threads.shutdown(cancel_futures=True)
    assert ran == ["the one that ran"]
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(ran.append, "too late")


def test_a_task_that_is_received_while_a_signal_stops_the_pool_is_refused_as_celery_expects_it() -> None:
    pool = TaskPool(1)
    run_one_by_one(pool, Held("test", "worker"))
    pool.stop()
    with pytest.raises(TaskRevokedError, match="shut down"):  # any other error would end the worker as a crash does
        pool.apply_async(print)


def test_a_thread_that_a_call_starts_is_awaited_at_the_end_of_the_process() -> None:
    script = (
        "import threading, time\n"
        "from resilience.workers.threads import Threads\n"
        "def late(): time.sleep(0.2); print('the late one ran')\n"
        "threads, begun = Threads(2), threading.Event()\n"
        "def task(): threading.Thread(target=late).start(); begun.set(); time.sleep(0.1); print('the task ran')\n"
        "threads.submit(task)\n"
        "begun.wait(20)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split("\n")[:2] == ["the task ran", "the late one ran"], said.stderr


def test_an_end_that_drops_nothing_runs_all_of_it() -> None:
    threads = Threads(3)
    ran: list[int] = []
    for number in range(300):
        threads.submit(ran.append, number)
    threads.shutdown()
    assert sorted(ran) == list(range(300))


def test_without_a_thread_it_says_so_and_with_one_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refuses = threading.Thread.start, False

    def limited(self: threading.Thread) -> Any:
        if refuses and self.name.startswith("celeriac-pool"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    none = Threads(2)
    ran: list[str] = []
    refuses = True
    with pytest.raises(RuntimeError, match="no thread left"):
        none.submit(ran.append, "nobody")
    refuses = False
    one = Threads(2)
    one_by_one(one)
    refuses = True
    gate, over = threading.Event(), threading.Event()
    one.submit(gate.wait, ENOUGH_S)
    one.submit(over.set)
    gate.set()
    assert over.wait(ENOUGH_S)
    none.shutdown()
    one.shutdown()
    assert not ran
