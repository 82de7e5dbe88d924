"""An upstream's outage, seen from a foreign project: the circuit opens for everybody, work flows round and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from celery import Celery, chord

from resilience import BreakerPolicy, Breakers
from resilience.testing import until
from tasks.upstream import Upstream
from tests.integration.conftest import SHOP, StartWorkers

POLICY = BreakerPolicy(open_s=1.0, open_max_s=1.0, ramp_s=0.5)


@pytest.fixture
def breakers(shop_redis: str) -> Iterator[Breakers]:
    made = Breakers.from_url(f"{shop_redis}/0", policies={"payments": POLICY})
    yield made
    made.close()


@pytest.fixture
def stock(shop_redis: str) -> Iterator[Celery]:
    """A publisher that knows nothing of the middleware, so nothing is routed at publish time."""
    app = Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1")
    yield app
    app.close()


def force_open(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.record_failure("payments")
    assert breakers.get_state("payments") == "open"


def publisher(first: int, count: int, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "publish.py", str(first), str(count), "0.12"], cwd=SHOP, env=env, stdout=-1, text=True
    )


def test_two_publishers_and_three_workers_see_one_outage_and_its_end(
    shop_redis: str, breakers: Breakers, workers: StartWorkers
) -> None:
    outage = [{"for_s": 1.5, "mode": "ok"}, {"for_s": 4.0, "mode": "503"}]
    with Upstream(outage, latency_s=0.02) as upstream:
        env = {**os.environ, "SHOP_REDIS": shop_redis, "SHOP_API": upstream.url}
        workers({"name": "w1"}, {"name": "w2"}, {"name": "fb", "queues": "fallback"}, env=env)
        running = [publisher(0, 70, env), publisher(1000, 70, env)]
        outputs = [process.communicate(timeout=60)[0] for process in running]
        assert [process.returncode for process in running] == [0, 0]
    seen = [json.loads(text) for text in outputs]
    for offset, one in zip((0, 1000), seen, strict=True):
        assert [answer["order"] for answer in one["answers"]] == list(range(offset, offset + 70))
        by = [answer["by"] for answer in one["answers"]]
        assert "fallback" in by, "the outage was routed round"
        assert by[0] == by[-1] == "payments", "home before the outage, and again after it"
        assert {"closed", "open"} <= set(one["states"]), "each publisher saw the one circuit open"
    assert breakers.get_state("payments") == "closed"
    assert breakers.snapshot("payments")["reason"] == "3 probes passed"


def test_with_breakers_off_the_same_outage_fails_orders(
    shop_redis: str, breakers: Breakers, workers: StartWorkers
) -> None:
    with Upstream([{"for_s": 60, "mode": "503"}], latency_s=0.02) as upstream:
        off = {"RESILIENCE_BREAKERS_ENABLED": "false", "RESILIENCE_RETRIES_ENABLED": "false"}
        env = {**os.environ, "SHOP_REDIS": shop_redis, "SHOP_API": upstream.url, **off}
        workers({"name": "w1"}, {"name": "fb", "queues": "fallback"}, env=env)
        process = publisher(0, 3, {**env, "PYTHONWARNINGS": "ignore"})
        process.communicate(timeout=60)
    assert process.returncode != 0


def test_what_was_queued_before_the_circuit_opened_is_moved_at_the_gate_with_its_identity(
    shop_redis: str, stock: Celery, breakers: Breakers, workers: StartWorkers
) -> None:
    force_open(breakers)
    sent = [
        stock.send_task("tasks.charge", (number,), priority=number % 2 * 3, headers={"tenant": f"t{number}"})
        for number in range(20)
    ]
    (worker, fallback) = workers({"name": "w1", "concurrency": 1}, {"name": "fb", "queues": "fallback"})
    answers = [result.get(timeout=20) for result in sent]
    assert [answer["order"] for answer in answers] == list(range(20))
    assert {answer["by"] for answer in answers} == {"fallback"}
    assert "tasks.charge[" not in "".join(line for line in worker.log().splitlines() if "succeeded" in line), (
        "no pool slot of the first worker was used"
    )
    assert "moved from celery to fallback" in worker.log()
    assert "succeeded" in fallback.log()


def test_a_chord_in_flight_survives_the_move(stock: Celery, breakers: Breakers, workers: StartWorkers) -> None:
    force_open(breakers)
    header = [stock.signature("tasks.charge", (number,), app=stock) for number in range(6)]
    result = chord(header, app=stock)(stock.signature("tasks.total", app=stock))
    workers({"name": "w1"}, {"name": "fb", "queues": "fallback"})
    assert result.get(timeout=20) == 12  # six answers of two entries each


def test_a_task_without_fallback_waits_in_the_parking_queue_until_the_circuit_closes(
    stock: Celery, breakers: Breakers, broker: redis.Redis, workers: StartWorkers
) -> None:
    force_open(breakers)
    sent = [stock.send_task("tasks.refund", (number,)) for number in range(8)]
    workers({"name": "w1"})
    assert [result.get(timeout=20) for result in sent] == [f"refund {number}" for number in range(8)]
    until(lambda: not broker.keys("*.parked.*"), what="the parking queue is gone")
    assert breakers.get_state("payments") == "closed", "the released tasks were its probes"


def test_a_transient_failure_is_retried_by_the_matrix_and_its_answer_counts(
    stock: Celery, workers: StartWorkers
) -> None:
    workers({"name": "w1"})
    assert stock.send_task("tasks.flaky", (2,)).get(timeout=20) == 3


def test_a_custom_base_class_keeps_its_own_hooks(stock: Celery, book: redis.Redis, workers: StartWorkers) -> None:
    workers({"name": "w1"})
    result = stock.send_task("tasks.refund", (7,))
    assert result.get(timeout=10) == "refund 7"
    until(lambda: book.lrange("audited", 0, -1) == [result.id])
