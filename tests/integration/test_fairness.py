"""A full queue starves no other, within a queue order is kept, and what is urgent goes first: counted."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.integration.works_kit import Side

FULL, SMALL = 400, 40
PREFETCH = 4


def send(side: Side, queue: str, count: int, priority: int) -> None:
    for number in range(count):
        side.send("note", "order", queue, priority, number, queue=queue, priority=priority, ignore_result=True)


@pytest.mark.parametrize("side", ["solo"], indirect=True)
def test_every_queue_gets_its_turn_in_order_and_urgent_messages_go_before_all_others(side: Side) -> None:
    send(side, "celery", FULL, priority=6)
    for queue in ("second", "red"):
        send(side, queue, SMALL, priority=6)
    send(side, "celery", SMALL, priority=3)
    send(side, "second", SMALL, priority=0)
    worker = side.worker(conf={"worker_prefetch_multiplier": PREFETCH})
    worker.wait_ready(40)
    side.until(lambda: len(side.ran("order")) == FULL + 4 * SMALL, "all ran", 40)
    order = [json.loads(row) for row in side.ran("order")]
    assert [priority for _, priority, _ in order] == sorted(priority for _, priority, _ in order)
    for queue, priority in {(queue, priority) for queue, priority, _ in order}:
        numbers = [number for name, step, number in order if (name, step) == (queue, priority)]
        assert numbers == sorted(numbers), f"{queue} at {priority} keeps its order"
    ordinary = [queue for queue, priority, _ in order if priority == 6]
    shares: Counter[str] = Counter()
    for queue in ordinary[: 3 * SMALL]:  # as long as all three had messages
        shares[queue] += 1
        assert max(shares.values()) - min(shares[name] for name in ("celery", "second", "red")) <= PREFETCH
    assert set(ordinary[3 * SMALL :]) == {"celery"}


@pytest.mark.parametrize("side", ["threads"], indirect=True)
def test_tasks_that_wait_hold_up_no_short_ones_while_a_thread_is_free(side: Side) -> None:
    send(side, "celery", FULL, priority=6)
    for number in range(3):
        side.send("hold", "held", number, ignore_result=True)
    send(side, "celery", SMALL, priority=6)
    worker = side.worker(concurrency=4, conf={"worker_prefetch_multiplier": 16})
    worker.wait_ready(40)
    side.until(lambda: side.began("held") == 3, "three began", 40)
    side.until(lambda: len(side.ran("order")) == FULL + SMALL, "the fourth thread ran all others", 40)
    assert side.ran("held") == [], "the three still run"
    assert side.ask("stats")["pool"]["threads"] == 4
    side.go("held")
    side.until(lambda: len(side.ran("held")) == 3, "they end")
