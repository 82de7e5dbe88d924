"""Recoveries on real workers: resources freed, more time given, workers put right, and all of it seen and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.recovery.ledger import Count
from resilience.testing import WorkerProcess, until

WARD = Path(__file__).parent.parent / "foreign" / "ward"
StartWard = Callable[..., list[WorkerProcess]]


@pytest.fixture
def ward(shop_redis: str, tmp_path: Path) -> Iterator[StartWard]:
    """Start workers of the ward, all at once."""
    started: list[WorkerProcess] = []

    def start(*specs: dict[str, object], **env: str) -> list[WorkerProcess]:
        made = [
            WorkerProcess(WARD, log_dir=tmp_path, env={"WARD_REDIS": shop_redis, **env}, **spec)  # type: ignore[arg-type]
            for spec in specs
        ]
        started.extend(made)
        for worker in made:
            worker.start()
        for worker in made:
            worker.wait_ready()
        return made

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


@pytest.fixture
def caller(shop_redis: str) -> Iterator[Celery]:
    """Another process's app, as far as the fleet is concerned: it runs nothing."""
    app = Celery("caller", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    Resilience(app)
    yield app
    app.resilience.breakers.close()
    app.close()


def counted(app: Celery, strategy: str) -> Count | None:
    return next((count for count in app.resilience.recoveries.counts() if count.strategy == strategy), None)


def test_a_task_short_of_resources_gets_them_freed_and_one_short_of_time_gets_more(
    ward: StartWard, caller: Celery, book: redis.Redis, shop_redis: str
) -> None:
    ward({"name": "w1", "pool": "threads"}, {"name": "w2", "queues": "forked", "concurrency": 1})
    slow = caller.send_task("tasks.patient", queue="forked")

    book.set("slow to free", 1)
    fed = caller.send_task("tasks.hungry")
    [active] = until(caller.resilience.recoveries.active, what="it is under way, seen from another process")
    assert (active.strategy, active.category, active.severity) == ("free_resources", "resource_error", "minor")
    assert (active.task, active.task_id, active.circuit) == ("tasks.hungry", fed.id, "memory")
    assert active.deadline - active.since == pytest.approx(60.0)
    listed = json.loads(_command(shop_redis, "recovery", "list", "--json"))
    assert [row["id"] for row in listed] == [active.id]
    book.delete("slow to free")

    assert fed.get(timeout=20) == "fed"
    assert book.get("freed") == "1"
    assert slow.get(timeout=20) == [1.5, [30.0, 1.5]]
    until(lambda: not caller.resilience.recoveries.active())
    for strategy, category in {
        "free_resources": "resource_error", "retry": "resource_error", "longer_timeout": "timeout_error",
    }.items():  # fmt: skip
        expected = Count(strategy, category, initiated=1, succeeded=1)
        until(lambda: counted(caller, strategy) == expected, 5.0, f"{expected}")  # noqa: B023  asked at once
    assert "free_resources" in _command(shop_redis, "recovery", "stats")


def test_without_anything_to_free_the_task_fails_and_so_it_is_counted(ward: StartWard, caller: Celery) -> None:
    ward({"name": "w1", "pool": "threads"}, WARD_KEEPS_ALL="1")
    with pytest.raises(MemoryError):
        caller.send_task("tasks.hungry").get(timeout=20)
    until(lambda: counted(caller, "retry") == Count("retry", "resource_error", 1, 0, 1))


def _command(url: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *words], cwd=WARD, env={**os.environ, "WARD_REDIS": url},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout
