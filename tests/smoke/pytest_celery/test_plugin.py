"""Celeriac in the hands of Celery's own test plugin: tasks run, circuits exist, a dead broker or worker is survived."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster
from pytest_celery.vendors.worker.tasks import add, sleep

from resilience import Breakers
from resilience.testing import until

SENT = 8


def circuits(setup: CeleryTestSetup) -> set[str]:
    with closing(Breakers.from_url(setup.broker.config()["host_url"])) as breakers:
        return set(breakers.snapshots())


def said(worker: CeleryTestWorker, what: str) -> set[str]:
    """Ids of the tasks of which the worker's log says `what`."""
    return set(re.findall(rf"Task \S+\[([0-9a-f-]+)\] {what}", worker.logs()))


def test_the_plugins_worker_app_runs_tasks_and_has_their_circuits(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(ping=True, control=True)

    assert add.s(1, 2).apply_async().get(timeout=10) == 3

    until(lambda: add.name in circuits(celery_setup), what="the task's circuit")


def test_after_a_kill_and_restart_of_the_broker_tasks_run_and_have_circuits(celery_setup: CeleryTestSetup) -> None:
    assert add.s(1, 2).apply_async().get(timeout=10) == 3
    until(lambda: add.name in circuits(celery_setup), what="the task's circuit")

    celery_setup.broker.kill()
    assert celery_setup.broker.container.status == "exited"
    celery_setup.broker.restart()
    assert not circuits(celery_setup), "this Redis keeps nothing over a restart"

    sums = [add.s(number, 1).apply_async() for number in range(5)]
    assert [result.get(timeout=20) for result in sums] == [1, 2, 3, 4, 5]

    def reported() -> bool:
        # a call at each look: what ran before the worker found its store again was counted by the worker alone
        assert add.s(1, 2).apply_async().get(timeout=20) == 3
        return add.name in circuits(celery_setup)

    until(reported, what="the task's circuit is back")


class TestTwoWorkers:
    @pytest.fixture
    def celery_worker_cluster(
        self, celery_setup_worker: CeleryTestWorker, second_worker: CeleryTestWorker
    ) -> Iterator[CeleryWorkerCluster]:
        cluster = CeleryWorkerCluster(celery_setup_worker, second_worker)
        yield cluster
        cluster.teardown()

    def test_what_a_killed_worker_held_runs_on_the_other_and_it_may_come_back(
        self, celery_setup: CeleryTestSetup
    ) -> None:
        results = [sleep.s(1).apply_async() for _ in range(SENT)]
        workers = celery_setup.worker_cluster.nodes
        until(lambda: sum(len(said(worker, "received")) for worker in workers) == SENT, what="every task is held")
        victim, survivor = sorted(workers, key=lambda worker: len(said(worker, "received")), reverse=True)

        victim.kill()

        assert victim.container.status == "exited"
        held = said(victim, "received") - said(victim, "succeeded")
        assert held, "it died with work in its hands"
        assert [result.get(timeout=20) for result in results] == [True] * SENT
        until(lambda: held <= said(survivor, "succeeded"), what="the survivor ran what the victim held")

        victim.restart()
        assert celery_setup.app.control.inspect([victim.hostname()]).ping() == {victim.hostname(): {"ok": "pong"}}
