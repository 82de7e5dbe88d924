"""Recoveries on real workers: resources freed, more time given, workers put right, and all of it seen and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.recovery.decide import WorkerAction
from resilience.recovery.ledger import Cause, Count
from resilience.testing import WorkerProcess, until
from resilience.workers.registry import WorkerInfo

WARD = Path(__file__).parent.parent / "foreign" / "ward"
StartWard = Callable[..., list[WorkerProcess]]


@pytest.fixture
def ward(shop_redis: str, tmp_path: Path) -> Iterator[StartWard]:
    """Start workers of the ward, all at once."""
    started: list[WorkerProcess] = []

    def start(*specs: dict[str, object], **env: str) -> list[WorkerProcess]:
        made = []
        for spec in specs:
            its_env = {"WARD_REDIS": shop_redis, **env, **spec.pop("env", {})}  # type: ignore[dict-item]
            made.append(WorkerProcess(WARD, log_dir=tmp_path, env=its_env, **spec))  # type: ignore[arg-type]
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


def test_a_task_that_a_circuit_refuses_in_its_body_is_parked_until_that_closes(
    ward: StartWard, caller: Celery, broker: redis.Redis
) -> None:
    breakers = caller.resilience.breakers
    breakers.force_open("gate", actor="a test", reason="to see")
    ward({"name": "w1", "pool": "threads"})
    through = caller.send_task("tasks.pass_gate")
    until(lambda: broker.llen("celeriac.parked.gate|celery") == 1, what="it is parked")
    assert counted(caller, "retry") is None, "and no retry is spent"
    breakers.reset("gate", actor="a test", reason="seen")
    assert through.get(timeout=20) == "through"
    until(lambda: counted(caller, "park") == Count("park", "connection_error", 1, 1, 0))


def test_without_anything_to_free_the_task_fails_and_so_it_is_counted(ward: StartWard, caller: Celery) -> None:
    ward({"name": "w1", "pool": "threads"}, WARD_KEEPS_ALL="1")
    with pytest.raises(MemoryError):
        caller.send_task("tasks.hungry").get(timeout=20)
    until(lambda: counted(caller, "retry") == Count("retry", "resource_error", 1, 0, 1))


def test_what_a_killed_process_began_is_ended_by_another_once(
    ward: StartWard, caller: Celery, book: redis.Redis, shop_redis: str
) -> None:
    workers = ward(
        {"name": "w1", "pool": "threads"}, {"name": "w2", "pool": "threads"}, {"name": "w3", "pool": "threads"}
    )
    owners = {worker.hostname.partition("@")[0]: worker.owner for worker in caller.resilience.workers()}
    names = {owner: name for name, owner in owners.items()}

    book.set("slow to free", 1)
    fed = caller.send_task("tasks.hungry")
    until(lambda: book.get("freeing") == "1", what="a worker is in the middle of it")
    [active] = caller.resilience.recoveries.active()
    killed = next(worker for worker in workers if worker.name == names[active.worker])
    killed.kill()
    left = [worker for worker in workers if worker is not killed]
    until(lambda: (count := counted(caller, "free_resources")) and count.failed, what="it is given up")
    until(lambda: book.get("freeing") == "2", what="another worker runs the task, and frees")
    book.set("room", 1)  # the retry may run on the third
    book.delete("slow to free")
    assert fed.get(timeout=20) == "fed"
    expected = Count("free_resources", "resource_error", initiated=2, succeeded=1, failed=1)
    until(lambda: counted(caller, "free_resources") == expected, what=f"{expected}")
    assert sum(worker.log().count("failed after") for worker in left) == 1

    asker = """
import os, sys, tasks
from resilience.recovery.decide import WorkerAction
from resilience.recovery.ledger import Cause
cause = Cause("connection_error", "major", circuit="line", why="a test")
assert tasks.res.recoveries.ask(WorkerAction.DEGRADE, sys.argv[1], cause, 30.0)
os.kill(os.getpid(), 9)
"""
    argv = [sys.executable, "-c", asker, owners[left[0].name]]
    done = subprocess.run(argv, cwd=WARD, env={**os.environ, "WARD_REDIS": shop_redis}, timeout=60, check=False)
    assert done.returncode == -9
    until(lambda: counted(caller, "degrade") == Count("degrade", "connection_error", initiated=1, succeeded=1))
    assert sum(worker.log().count("recovery degrade of worker") for worker in left) == 1
    assert not caller.resilience.recoveries.active()


def test_workers_with_trouble_of_their_own_are_put_right_and_replaced_when_asked(
    ward: StartWard, caller: Celery, book: redis.Redis
) -> None:
    specs = [{"name": "bad"}, {"name": "good"}, {"name": "deaf", "env": {"WARD_DEAF": "1"}}]
    workers = bad, good, deaf = ward(*({**spec, "pool": "threads"} for spec in specs))
    owners = {worker.hostname: worker.owner for worker in caller.resilience.workers()}
    book.sadd("dead lines", *owners)

    def critical() -> bool:
        caller.send_task("tasks.call_out", ignore_result=True)
        return any("connection_error, critical, attempt 1" in worker.log() for worker in workers)

    until(critical, what="all workers are affected, and that is critical")
    assert all("recovery " not in worker.log() for worker in workers), "it is no worker's own trouble"
    book.srem("dead lines", "good@test", "deaf@test")

    def degraded() -> bool:
        caller.send_task("tasks.call_out", ignore_result=True)
        return bool(_info(caller, "bad@test").degraded)

    until(degraded, 30.0, "bad says that it is degraded")
    assert "recovery reconnect of worker" in bad.log()
    assert "recovery " not in good.log()
    assert _info(caller, "bad@test").health == "degraded"
    until(lambda: _window(caller, "bad@test") == 2, what="no more than it has slots for")
    assert _window(caller, "good@test") == 8
    book.delete("dead lines")

    rounds = HealthRounds(caller)
    book.set("deaf", 1)
    until(lambda: rounds.go_on() and _info(caller, "deaf@test").degraded, 30.0, "deaf is degraded")
    until(lambda: rounds.go_on() and _info(caller, "deaf@test").out_of_rotation, 30.0, "deaf is out of rotation")
    book.delete("deaf")

    def well() -> bool:
        rounds.go_on()
        return all(_info(caller, hostname).health == "healthy" for hostname in owners)

    until(well, 60.0, "all are well again")
    assert "is well again" in bad.log()
    assert "is well again" in deaf.log()
    until(lambda: _window(caller, "bad@test") == 8, what="it takes as much as before")

    recoveries, cause = caller.resilience.recoveries, Cause("initialization_error", "critical", why="a test")
    for hostname in ("bad@test", "deaf@test"):
        assert recoveries.ask(WorkerAction.REPLACE, owners[hostname], cause, 60.0)
    until(lambda: bad.returncode == deaf.returncode == 0, what="they left, for their keeper to start new ones")
    assert recoveries.ask(WorkerAction.REPLACE, owners["good@test"], cause, 60.0)
    until(lambda: counted(caller, "replace") == Count("replace", "initialization_error", 3, 2, 1))
    assert "no other worker serves celery" in good.log()
    assert caller.send_task("tasks.call_out").get(timeout=20) is None
    until(lambda: counted(caller, "reconnect") == Count("reconnect", "connection_error", 1, 1, 0))


class HealthRounds:
    """Asks for health rounds as beat does, a second apart."""

    def __init__(self, app: Celery) -> None:
        self._app, self._next = app, 0.0

    def go_on(self) -> bool:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            self._app.send_task("resilience.health_round", ignore_result=True)
        return True


def _info(app: Celery, hostname: str) -> WorkerInfo:
    return next(worker for worker in app.resilience.workers() if worker.hostname == hostname)


def _window(app: Celery, hostname: str) -> int:
    """How many messages the worker holds at most."""
    answers = app.control.inspect([hostname], timeout=5.0).stats() or {}
    return int(answers.get(hostname, {}).get("prefetch_count", -1))


def _command(url: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *words], cwd=WARD, env={**os.environ, "WARD_REDIS": url},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout
