"""A deadline travels with its message, counts from when the task is due, and no attempt begins past it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.errors.taxonomy import DeadlineError
from resilience.recovery.deadline import DEADLINE_HEADER
from resilience.testing import WorkerProcess

DEPOT = Path(__file__).parent.parent / "foreign" / "depot"


@pytest.fixture
def depot(shop_redis: str, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Start a worker of the depot."""
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        worker = WorkerProcess(DEPOT, log_dir=tmp_path, env={"DEPOT_REDIS": shop_redis}, name="w1")
        started.append(worker)
        worker.start()
        worker.wait_ready()
        return worker

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def app(shop_redis: str) -> Iterator[Celery]:
    """The publisher's side of the depot: the same tasks, as signatures with their options."""
    made = Celery("depot", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    Resilience(made)

    @made.task(name="tasks.deliver", circuit="stays-closed", deadline_s=2.0, shared=False)
    def deliver(parcel: int) -> None: ...

    @made.task(name="tasks.collect", circuit="stays-closed", deadline_s=1.0, shared=False)
    def collect(parcel: int) -> None: ...

    yield made
    made.close()


def send(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    return app.tasks[f"tasks.{name}"].apply_async(args, **options)


def test_no_retry_begins_past_the_deadline(app: Celery, depot: Callable[[], WorkerProcess], book: redis.Redis) -> None:
    worker = depot()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        send(app, "deliver", 1).get(timeout=20)
    assert time.monotonic() - began < 3.0, "its five retries would have taken 31 s"
    assert book.lrange("tried", 0, -1) == ["1", "1"], "at once and after 1 s; the next would begin after 3 s"
    assert "would begin after its deadline" in worker.log()


def test_a_task_that_comes_too_late_is_not_begun_and_says_so(
    app: Celery, depot: Callable[[], WorkerProcess], book: redis.Redis
) -> None:
    late = send(app, "collect", 1, headers={DEADLINE_HEADER: time.time() - 5})
    in_time = send(app, "collect", 2, headers={DEADLINE_HEADER: time.time() + 60})
    depot()
    with pytest.raises(DeadlineError, match=r"tasks.collect was to begin before its deadline, \d+\.\d s ago"):
        late.get(timeout=20)
    assert in_time.get(timeout=20) == 2
    assert book.lrange("collected", 0, -1) == ["2"]


def test_the_deadline_of_a_task_with_a_countdown_counts_from_its_end(
    app: Celery, depot: Callable[[], WorkerProcess]
) -> None:
    depot()
    assert send(app, "collect", 1, countdown=1.5).get(timeout=20) == 1


def test_the_deadline_is_in_the_message_of_every_way_to_send(app: Celery, broker: redis.Redis) -> None:

    send(app, "collect", 1)
    app.send_task("tasks.collect", (2,))
    (app.tasks["tasks.collect"].si(3) | app.tasks["tasks.collect"].si(4)).apply_async()
    found = [json.loads(text)["headers"] for text in broker.lrange("celery", 0, -1)]
    assert len(found) == 3
    for headers in found:
        assert 0.0 < headers[DEADLINE_HEADER] - time.time() <= 1.0
