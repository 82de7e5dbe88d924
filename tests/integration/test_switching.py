"""A running system is switched over to us and back under load, mixes both kinds of workers, and loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import kombu
import pytest

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.integration.works_kit import FOLDER, Side

# Stock workers run threads here: under a stream of short tasks every second warm stop of a stock prefork worker hangs.
SMALL = {"queues": "celery", "concurrency": 2, "conf": {"worker_prefetch_multiplier": 4}}


class Fleet:
    """Workers of both kinds at the same queue, and a publisher that never stops."""

    def __init__(self, port: int, log_dir: Path, stack: ExitStack) -> None:
        self.ours, self.stock = (Side(port, 0, stock, "prefork", log_dir) for stock in (False, True))
        self.sent = 0
        self._stopping = threading.Event()
        self._publisher = threading.Thread(target=self._publish)
        stack.callback(self.stock.close)
        stack.callback(self.ours.close)
        stack.callback(self.stop_publishing)

    def start(self, side: Side, *names: str, **options: Any) -> list[WorkerProcess]:
        pool = "threads" if side is self.stock else "prefork"
        workers = [side.worker(name, **{**SMALL, "pool": pool, **options}) for name in names]
        for worker in workers:
            worker.wait_ready(60)
        return workers

    def begin_to_publish(self) -> None:
        self._publisher.start()

    def stop_publishing(self) -> None:
        self._stopping.set()
        if self._publisher.is_alive():
            self._publisher.join()

    def _publish(self) -> None:
        """About 150 messages a second; each tenth is due a second later, each fiftieth nine."""
        while not self._stopping.wait(0.006):
            number = self.sent
            later = {"countdown": 9.0} if number % 50 == 0 else {"countdown": 1.0} if number % 10 == 0 else {}
            self.stock.send("note", "load", number, ignore_result=True, **later)
            self.sent += 1

    def ran(self) -> Counter[int]:
        return Counter(json.loads(entry)[0] for entry in self.stock.ran("load"))

    def work_goes_on(self, count: int = 60) -> None:
        """Some more tasks ran since."""
        before = self.stock.book.llen("ran:load")
        until(lambda: self.stock.book.llen("ran:load") >= before + count, 40, "work goes on")

    def replace(self, old: list[WorkerProcess], side: Side, *names: str) -> list[WorkerProcess]:
        """A rolling deployment: the new workers first, then one warm stop after the other."""
        new = self.start(side, *names)
        for worker in old:
            assert worker.stop(30) == 0
            self.work_goes_on()
        return new

    def release(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "tasks", "pool", "release", *words],
            cwd=FOLDER, env=self.ours.environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def everything_ran(self, extra: Callable[[], Counter[int]] = Counter) -> Counter[int]:
        self.stop_publishing()
        until(lambda: len(self.ran() + extra()) == self.sent, 60, f"all {self.sent} ran")
        return self.ran() + extra()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        yield Fleet(server.port, tmp_path, stack)


@pytest.mark.timeout(180)
def test_workers_are_replaced_one_by_one_and_back_under_load_and_each_task_runs_once(fleet: Fleet) -> None:
    workers = fleet.start(fleet.stock, "old1", "old2")
    fleet.begin_to_publish()
    fleet.work_goes_on()
    workers = fleet.replace(workers, fleet.ours, "new1", "new2")
    refused = fleet.release()
    assert refused.returncode == 1
    assert "2 workers of Celeriac are alive" in refused.stderr
    workers = fleet.replace(workers, fleet.stock, "back1", "back2")
    released = fleet.release("--json")
    assert released.returncode == 0, released.stderr
    counts = json.loads(released.stdout)
    assert counts["delayed"] > 0, "some were due later while we ran"
    assert (counts["claimed"], counts["alive"]) == (0, [])
    ran = fleet.everything_ran()
    assert [number for number, times in ran.items() if times > 1] == []
    assert fleet.stock.queued() == 0
    assert not fleet.stock.broker.keys("celeriac:v1:claims:*")


@pytest.mark.timeout(180)
def test_both_kinds_of_workers_and_a_plain_kombu_consumer_share_a_queue_while_one_of_ours_is_killed(
    fleet: Fleet,
) -> None:
    (victim, _), (old, _) = fleet.start(fleet.ours, "ours1", "ours2"), fleet.start(fleet.stock, "stock1", "stock2")
    fleet.begin_to_publish()
    with closing(Listener(fleet.stock.urls["WORKS_BROKER"])) as listener:
        fleet.work_goes_on()
        victim.kill(signal.SIGKILL)
        fleet.work_goes_on()
        assert old.stop(30) == 0
        until(lambda: len(listener.read) > 20, what="the plain consumer gets its share")
        listener.stop()
        ran = fleet.everything_ran(lambda: Counter(listener.read))
    repeated = [number for number, times in ran.items() if times > 1]
    assert len(repeated) <= 2, "at most what ran when its worker was killed"


def test_release_puts_what_a_dead_worker_held_and_what_is_due_later_where_a_stock_worker_finds_it(fleet: Fleet) -> None:
    (victim,) = fleet.start(fleet.ours, "victim")
    side = fleet.ours
    for number in (1, 2, 3):
        side.send("note", "later", number, countdown=3600, ignore_result=True)
    until(lambda: side.broker.zcard("celeriac:v1:delayed:due:celery") == 3, what="three are due in an hour")
    for number in range(12):
        side.send("hold", "held", number, ignore_result=True)
    until(lambda: side.began("held") == 2 and side.queued() == 4, what="eight are held")
    side.broker.sadd("celeriac:v1:parked", "celeriac.parked.db|celery")
    for _ in range(2):
        side.broker.lmove("celery", "celeriac.parked.db|celery", "RIGHT", "LEFT")
    side.broker.lpush("celeriac:v1:alone", f"6:celery{side.broker.rpop('celery')}")
    victim.kill(signal.SIGKILL)
    released = until(lambda: released_by(fleet), 30, "the worker is known to be dead")
    assert released == {"parked": 2, "delayed": 3, "alone": 1, "claimed": 8, "alive": [], "moved": 14}
    assert side.queued() == 15
    assert not side.broker.keys("celeriac:v1:*claims*")
    side.go("held")
    fleet.start(fleet.stock, "next")
    until(lambda: sorted(map(int, side.ran("held"))) == list(range(12)), what="all that was held ran")
    assert side.ran("later") == []


def released_by(fleet: Fleet) -> Any:
    """What `pool release` says that it did; None if it refused."""
    done = fleet.release("--json")
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_what_a_killed_stock_worker_held_runs_on_ours_after_its_visibility_timeout(fleet: Fleet) -> None:
    """Only stock workers would look for it, and after a switch there is none."""
    conf = {"worker_prefetch_multiplier": 4, "broker_transport_options": {"visibility_timeout": 3}}
    (victim,) = fleet.start(fleet.stock, "victim", conf=conf)
    side = fleet.stock
    for number in range(8):
        side.send("hold", "held", number, ignore_result=True)
    until(lambda: side.began("held") == 2 and side.queued() == 0, what="eight are held")
    victim.kill(signal.SIGKILL)
    side.go("held")
    fleet.start(fleet.ours, "next", conf=conf)
    until(lambda: sorted(map(int, side.ran("held"))) == list(range(8)), what="all that was held ran, once")
    assert not side.broker.exists("unacked", "unacked_index")


class Listener:
    """A consumer that knows kombu and nothing else: it reads what it gets and acknowledges."""

    def __init__(self, url: str) -> None:
        self.read: list[int] = []
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with kombu.Connection(self._url) as connection, connection.channel() as channel:
            channel.basic_qos(0, 1, False)
            queue = kombu.Queue("celery", no_declare=True)
            with kombu.Consumer(channel, queue, callbacks=[self._note], accept=["json"]):
                while not self._stopping.is_set():
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.2)

    def _note(self, body: Any, message: Any) -> None:
        if message.headers.get("eta"):
            message.requeue()  # not its business
            time.sleep(0.02)
            return
        (_, number), *_ = body
        self.read.append(number)
        message.ack()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    close = stop
