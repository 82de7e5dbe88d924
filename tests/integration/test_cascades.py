"""One thing breaks after the other, and all at once, under load: every task is accounted for at the end."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tasks.upstream import Upstream
from tests.integration.bank_kit import Start, Traffic, play, set_to, start

__all__ = ["start"]  # a fixture


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


COUNT = 500
"""Tasks of each of the two publishers."""


def test_a_thousand_tasks_over_three_outages_are_each_done_once(shop_redis: str, start: Start) -> None:
    """Two publishers, three workers, and an upstream that is twice as long away as it is there."""
    outages = [{"for_s": 1.0, "mode": "ok"}, {"for_s": 2.0, "mode": "503"}] * 3
    with Upstream() as upstream:
        workers = [start("w1", env={"BANK_CELERY": upstream.url}, pool="threads", concurrency=4),
                   start("w2", env={"BANK_CELERY": upstream.url}),
                   start("second", queues="second", pool="threads", concurrency=4)]  # fmt: skip
        for worker in workers:
            worker.wait_ready()
        play(upstream, outages)
        with (
            Traffic(shop_redis, count=COUNT, per_s=50) as one,
            Traffic(shop_redis, first=1000, count=COUNT, per_s=50) as other,
        ):
            one.wait()
            other.wait()
        done = Counter(request.prompt_sha256 for request in upstream.requests if request.status == 200)
    assert len(one.found) == len(other.found) == COUNT
    for traffic in (one, other):
        assert set(traffic.answers()) == {"celery", "second"}, "some were routed round, and traffic came back"
        assert traffic.answers()[-1] == "celery"
    by_upstream = {number for t in (one, other) for number, queue in t.found.items() if queue == "celery"}
    assert done == Counter(sha256(f"transfer {number}") for number in by_upstream), "its own log says so"
    assert one.ran() == Counter([*range(COUNT), *range(1000, 1000 + COUNT)])
    opened = sum(worker.log().count("circuit ledger: closed -> open") for worker in workers)
    assert opened >= 3


class Bank:
    """Workers of three levels on a Redis of their own, two upstreams, two publishers."""

    def __init__(self, start: Start, server: RedisServer) -> None:
        self.url = server.url().rpartition("/")[0]
        self.server, self._start = server, start
        self.first, self.second = Upstream(), Upstream()
        self.first.start()
        self.second.start()
        self.homes = [self.home(f"home{number}") for number in range(2)]
        others = [self._worker("second", queues="second"), self._worker("third", queues="third")]
        for worker in (*self.homes, *others):
            worker.wait_ready()
        self.traffic = [Traffic(self.url, first=first, per_s=20) for first in (0, 10_000)]
        self.killed = 0

    def home(self, name: str) -> WorkerProcess:
        return self._worker(name, pool="threads" if name.endswith("0") else "prefork")

    def _worker(self, name: str, pool: str = "threads", **options: Any) -> WorkerProcess:
        env = {"BANK_REDIS": self.url, "BANK_CELERY": self.first.url, "BANK_SECOND": self.second.url}
        return self._start(name, env=env, pool=pool, concurrency=4, **options)

    def kill_one(self) -> None:
        """A home worker dies, and its keeper starts another."""
        self.homes.pop(0).kill()
        self.killed += 1
        self.homes.append(self.home(f"again{self.killed}"))

    def freeze(self) -> None:
        self.server.freeze()
        time.sleep(5)
        self.server.thaw()

    def flows(self, queue: str) -> None:
        until(lambda: self.traffic[0].last(10) == [queue] * 10, within_s=40, what=f"all is done by {queue}")

    def close(self) -> None:
        for traffic in self.traffic:
            traffic.__exit__(None, None, None)
        self.first.stop()
        self.second.stop()


def test_each_in_turn_and_all_together(start: Start, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", appendonly=True) as server:
        bank = Bank(start, server)
        try:
            bank.flows("celery")
            set_to(bank.first, "503")
            bank.flows("second")
            set_to(bank.second, "503")
            bank.flows("third")
            bank.kill_one()
            bank.freeze()
            bank.flows("third")
            set_to(bank.second, "ok")
            set_to(bank.first, "ok")
            bank.flows("celery")
            set_to(bank.first, "503")
            set_to(bank.second, "503")
            bank.kill_one()
            bank.freeze()
            set_to(bank.first, "ok")
            set_to(bank.second, "ok")
            bank.flows("celery")
        finally:
            bank.close()
        ran = bank.traffic[0].ran()
    for traffic in bank.traffic:
        assert set(traffic.answers()) == {"celery", "second", "third"}, "each has its answer"
    sent = {number for traffic in bank.traffic for number in traffic.found}
    unsure = {number for traffic in bank.traffic for number in traffic.unsure}
    assert sent <= set(ran) <= sent | unsure
    repeated = sum(ran.values()) - len(ran)
    assert repeated <= bank.killed * 4, "only what a killed worker ran at that moment"
