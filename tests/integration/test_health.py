"""Health checks by a real beat: a busy worker is healthy, a frozen one is not, and scripts can tell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.local.orphans import bound_to_parent
from resilience.testing import until
from tests.integration.conftest import SHOP, StartWorkers
from tests.integration.test_cli import environment

QUICK = {"RESILIENCE_HEALTH_INTERVAL_S": "1", "RESILIENCE_HEALTH_TIMEOUT_S": "1"}


@pytest.fixture
def beat(shop_redis: str, tmp_path: Path) -> Iterator[None]:
    env = {**environment(shop_redis), "SHOP_REDIS": shop_redis, **QUICK}
    command = [sys.executable, "-m", "celery", "-A", "tasks", "beat", "-s", str(tmp_path / "schedule"), "-l", "WARNING"]
    process = subprocess.Popen(bound_to_parent(command), cwd=SHOP, env=env, start_new_session=True)
    yield
    process.terminate()
    process.wait(10)


def health(url: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "pool", "health"],
        cwd=SHOP, env={**environment(url), "SHOP_REDIS": url}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def checks(broker: redis.Redis, field: str) -> list[float]:
    """`field` of every live worker, 0 where it is missing."""
    owners = broker.zrange("celeriac:v1:workers", 0, -1)
    return [float(broker.hget(f"celeriac:v1:worker:{owner}", field) or 0) for owner in owners]


def test_a_worker_with_every_slot_busy_answers_and_a_frozen_one_does_not(
    shop_redis: str, book: redis.Redis, broker: redis.Redis, workers: StartWorkers, beat: None
) -> None:
    _busy, frozen = workers({"name": "busy"}, {"name": "frozen"}, env=QUICK)
    app = Celery("stock", broker=f"{shop_redis}/0")
    for number in range(8):
        app.send_task("tasks.hold", (number,), ignore_result=True)
    app.close()
    until(lambda: book.llen("began") == 4, what="every slot of both workers is busy")
    until(lambda: all(checks(broker, "answered")), what="both answered a check")
    assert health(shop_redis) == (0, "healthy: 2 workers\n")
    frozen.kill(signal.SIGSTOP)
    until(lambda: sorted(checks(broker, "missed"))[-1] >= 3, what="the frozen worker missed three checks")
    code, text = health(shop_redis)
    assert (code, text) == (1, "not healthy: frozen@test\n")
    frozen.kill(signal.SIGCONT)
    until(lambda: checks(broker, "missed") == [0, 0], what="a pass restores it")
    book.set("go", "1")
    until(lambda: book.llen("ran") == 8)
