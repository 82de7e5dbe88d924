"""When everybody looks dead, nobody is: after a restart of Redis or a pause of the whole fleet no task runs twice."""

from __future__ import annotations

import signal
import time

import psutil

from resilience.testing import WorkerProcess, until
from tests.integration.trouble_kit import Publisher, Trouble, book_server, long, trouble

__all__ = ["book_server", "trouble"]  # fixtures

AWAY_S = 4.0
SHORT = {"RESILIENCE_GONE_S": "1", "RESILIENCE_SILENT_S": "2"}
LONG_TASK_S = 6.0


def at_work(trouble: Trouble) -> Publisher:
    """A worker of each pool, each at a task that outlasts the trouble; more wait behind them."""
    trouble.start_one_of_each_pool(env=SHORT)
    publisher = trouble.publisher()
    publisher.send(5, LONG_TASK_S)
    until(lambda: len(trouble.book.back_after_s(0)) == 3, what="all are at work")
    publisher.send(20, 0.02)
    return publisher


def assert_nobody_was_buried(trouble: Trouble) -> None:
    assert not trouble.book.repeats()
    for worker in trouble.workers:
        assert " died: " not in worker.log()
        assert "taken for dead" not in worker.log()


def test_tasks_that_run_through_a_restart_of_redis_run_once(trouble: Trouble) -> None:
    publisher = at_work(trouble)
    trouble.server.kill()
    time.sleep(AWAY_S)
    trouble.server.restart()
    trouble.until_done(publisher)
    assert_nobody_was_buried(trouble)


@long
def test_tasks_of_a_fleet_that_is_paused_for_longer_than_every_lease_run_once(trouble: Trouble) -> None:
    publisher = at_work(trouble)
    family = [process for worker in trouble.workers for process in everyone(worker)]
    for process in family:
        process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY_S)
    for process in family:
        process.send_signal(signal.SIGCONT)
    trouble.until_done(publisher)
    assert_nobody_was_buried(trouble)


def test_a_fleet_that_is_woken_one_by_one_runs_each_task_once(trouble: Trouble) -> None:
    """The first that wakes sees the others late by far, and must not bury them at once."""
    publisher = at_work(trouble)
    for worker in trouble.workers:
        for process in everyone(worker):
            process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY_S)
    for worker in trouble.workers:
        for process in everyone(worker):
            process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
    trouble.until_done(publisher)
    assert_nobody_was_buried(trouble)


def everyone(worker: WorkerProcess) -> list[psutil.Process]:
    return [psutil.Process(worker.pid), *worker.children()]
