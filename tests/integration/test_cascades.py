"""One thing breaks after the other, and all at once, under load: every task is accounted for at the end."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tasks.upstream import Upstream
from tests.integration.bank_kit import Start, Traffic, set_to, start

__all__ = ["start"]  # a fixture


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


FAR = 1_000_000
"""The second publisher's first number."""


@pytest.mark.timeout(240)
def test_what_two_publishers_send_over_three_outages_is_done_once(shop_redis: str, start: Start) -> None:
    """Two publishers and three workers; the upstream is away for as long as it takes to see it, and back as long."""
    with Upstream() as upstream:
        workers = [start("w1", env={"BANK_CELERY": upstream.url}, pool="threads", concurrency=4),
                   start("w2", env={"BANK_CELERY": upstream.url}),
                   start("second", queues="second", pool="threads", concurrency=4)]  # fmt: skip
        for worker in workers:
            worker.wait_ready()
        with Traffic(shop_redis, per_s=20) as one, Traffic(shop_redis, first=FAR, per_s=20) as other:
            for _ in range(3):
                for mode, queue in (("ok", "celery"), ("503", "second"), ("ok", "celery")):
                    set_to(upstream, mode)
                    until(lambda: one.last(10) == [queue] * 10, within_s=40, what=f"it is {mode}")  # noqa: B023
            one.tell_to_stop()
            other.tell_to_stop()
            one.wait()
            other.wait()
        done = Counter(request.prompt_sha256 for request in upstream.requests if request.status == 200)
    sent = Counter([*one.found, *other.found])
    assert set(sent.values()) == {1}
    assert {*one.answers(), *other.answers()} == {"celery", "second"}, "each is answered, some were routed round"
    by_upstream = [number for t in (one, other) for number, queue in t.found.items() if queue == "celery"]
    assert done == Counter(sha256(f"transfer {number}") for number in by_upstream), "its own log says so"
    assert one.ran() == sent, "each was done once"


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
        self.traffic = [Traffic(self.url, first=first, per_s=10) for first in (0, FAR)]
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
        until(lambda: self.traffic[0].last(10) == [queue] * 10, within_s=60, what=f"all is done by {queue}")

    def close(self) -> None:
        for traffic in self.traffic:
            traffic.tell_to_stop()
        for traffic in self.traffic:
            traffic.wait()
            traffic.__exit__(None, None, None)
        self.first.stop()
        self.second.stop()


@pytest.mark.timeout(300)
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
