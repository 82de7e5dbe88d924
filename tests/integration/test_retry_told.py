"""A retry is told to the result backend before it is sent: it may have answered before its first attempt is done.

What Redis hears is read by MONITOR, because the overwritten answer itself shows only now and then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from tasks.upstream import Upstream
from tests.integration.conftest import StartWorkers

RETRY, SENT, SUCCESS = "retry", "sent", "success"


@pytest.fixture
def stock(shop_redis: str) -> Iterator[Celery]:
    app = Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1")
    yield app
    app.close()


def heard_while(shop_redis: str, stock: Celery, task: str, *args: object) -> list[str]:
    """What Redis was told of one call of `task`, in order: its states and the sending of its next attempts."""
    with redis.Redis.from_url(shop_redis) as client, client.monitor() as monitor:
        result = stock.send_task(task, args)
        assert result.get(timeout=20)
        client.echo("that is all")
        found = []
        for line in monitor.listen():
            command = line["command"]
            if "that is all" in command:
                return found[1:]  # the call itself was sent
            if result.id not in command:
                continue
            if command.startswith("SETEX") and "celery-task-meta" in command:
                found.append(RETRY if "RETRY" in command else SUCCESS if "SUCCESS" in command else command)
            elif result.id in command and command.startswith(("LPUSH", "RPUSH")):
                found.append(SENT)
    raise AssertionError("MONITOR ended")


RETRIED = [("tasks.flaky", (1,)), ("tasks.second_thoughts", ()), ("tasks.charge", (1,))]


@pytest.mark.parametrize(("task", "args"), RETRIED)
def test_the_state_of_a_retry_is_stored_before_the_retry_is_sent(
    shop_redis: str, stock: Celery, workers: StartWorkers, task: str, args: tuple[int, ...]
) -> None:
    with Upstream([{"for_s": 60, "mode": "503"}]) as upstream:
        workers({"name": "w1", "env": {"SHOP_API": upstream.url}}, {"name": "fb", "queues": "fallback"})
        heard = heard_while(shop_redis, stock, task, *args)
    # a message that waits for its time is pushed a second time when that has come
    assert re.fullmatch(f"({RETRY} ({SENT} )+)+{SUCCESS}", " ".join(heard)), heard
