"""The chat task on a real worker: primary API, secondary API, an honest reply without either, and back again."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from resilience.testing import WorkerProcess, until
from tasks.upstream import Script, Upstream, expected_answer

ROOT = Path(__file__).parents[2]
POLICY = {"consecutive_failures": 3, "open_s": 1.0, "open_max_s": 1.0, "ramp_s": 0.1}
PROMPT = "Which of you answers this?"
SHUT = [{"for_s": 3600, "mode": "refuse"}]


@pytest.fixture
def customers(shop_redis: str) -> Iterator[Celery]:
    with Celery("customers", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False) as app:
        yield app


def answers(customers: Celery, count: int = 6) -> list[dict[str, Any]]:
    sent = [customers.send_task("tasks.chat", (PROMPT,)) for _ in range(count)]
    return [result.get(timeout=30) for result in sent]


def sources(customers: Celery, count: int = 6) -> set[str]:
    return {answer["source"] for answer in answers(customers, count)}


def shut(upstream: Upstream) -> None:
    upstream.script = Script.of(SHUT)
    upstream.begin()
    until(lambda: not listens(upstream), what="its port is closed")


def listens(upstream: Upstream) -> bool:
    try:
        socket.create_connection(("127.0.0.1", upstream.port)).close()
    except ConnectionRefusedError:
        return False
    return True


def reopen(upstream: Upstream) -> None:
    upstream.script = Script.of([])
    upstream.begin()


def test_each_level_stands_in_for_the_one_above_it_and_the_one_above_comes_back_by_itself(
    customers: Celery, shop_redis: str, tmp_path: Path
) -> None:
    with Upstream() as primary, Upstream() as secondary:
        env = {
            "CELERY_BROKER_URL": f"{shop_redis}/0",
            "CELERY_RESULT_BACKEND": f"{shop_redis}/1",
            "CELERIAC_API_URL": primary.url,
            "CELERIAC_FALLBACK_API_URL": secondary.url,
            "RESILIENCE_CIRCUITS": json.dumps({"chat-api": POLICY}),
        }
        with WorkerProcess(
            ROOT, "chat", tmp_path, queues="celery,fallback", pool="threads", concurrency=6, env=env
        ) as worker:
            assert sources(customers) == {"primary"}

            shut(primary)
            assert sources(customers) == {"secondary"}
            assert "ConnectError(" in worker.log(), "it was looked at a moment before: the call itself found out"
            assert "moved from celery to fallback" in worker.log()

            shut(secondary)
            for answer in answers(customers):
                assert (answer["source"], answer["degraded"], answer["model"]) == ("offline", True, "none")
                assert answer["answer"].startswith("Degraded reply: the chat service is not reachable")

            reopen(secondary)
            until(lambda: sources(customers, 1) == {"secondary"}, what="the secondary is back before the primary")
            reopen(primary)
            until(lambda: sources(customers) == {"primary"}, what="the primary is back")
            real = {(expected_answer(PROMPT), False)}  # while its share grows, some still go to the others
            until(
                lambda: {(answer["answer"], answer["degraded"]) for answer in answers(customers)} == real,
                what="it answers everybody",
            )


def test_without_a_secondary_api_the_reply_says_that_it_is_degraded(
    customers: Celery, shop_redis: str, tmp_path: Path
) -> None:
    env = {"CELERY_BROKER_URL": f"{shop_redis}/0", "CELERY_RESULT_BACKEND": f"{shop_redis}/1", "CELERIAC_API_URL": ""}
    with WorkerProcess(ROOT, "chat", tmp_path, queues="celery,fallback", pool="threads", concurrency=6, env=env):
        assert {(answer["source"], answer["degraded"]) for answer in answers(customers)} == {("offline", True)}
