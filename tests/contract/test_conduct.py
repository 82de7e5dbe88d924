"""What a worker does to itself, without a worker: its recoveries are real, and so is the Redis where they stand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from celery import Celery

from resilience import Resilience
from resilience.delivery.broker import Broker
from resilience.recovery.decide import WorkerAction
from resilience.recovery.ledger import Cause
from resilience.testing import until
from resilience.workers.conduct import Conduct
from resilience.workers.registry import Registry

CAUSE = Cause("initialization_error", "critical", why="a test")


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("conduct", broker=redis_url, set_as_current=False)
    app.conf.resilience_worker_restarts = True
    Resilience(app)
    yield app
    app.resilience.breakers.close()
    app.close()


@pytest.fixture
def conduct(app: Celery) -> Conduct:
    """Of the worker "w"."""
    res = app.resilience
    res.rotation.begin("w")
    return Conduct(res._core, "w", "w@host", res.rotation, None)


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What SIGTERM would have ended."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_a_worker_that_left_to_be_replaced_ends_also_when_others_gave_its_replacement_up(
    app: Celery, conduct: Conduct, broker: Broker, terms: list[int]
) -> None:
    res = app.resilience
    assert res.recoveries.ask(WorkerAction.REPLACE, "w", CAUSE, 30.0)
    until(lambda: conduct.tend(broker) or res.rotation.why, what="it is out of rotation")
    [recovery] = res.recoveries.active()
    assert recovery.by == "w"
    assert res.recoveries.give_up_for(recovery, "another", "nobody ended it in time")
    until(lambda: conduct.tend(broker) or terms, what="it ends")


def test_of_two_workers_that_would_leave_in_the_same_moment_one_waits_for_the_other(
    app: Celery, conduct: Conduct, broker: Broker, terms: list[int]
) -> None:
    res = app.resilience
    for worker in ("w", "v"):
        assert res.recoveries.ask(WorkerAction.REPLACE, worker, CAUSE, 30.0)
    before = {recovery.worker: recovery for recovery in res.recoveries.active()}
    assert res.recoveries.ledger.take(before["v"], "v", "begun")
    conduct._begin(before["w"], Registry(broker, res.settings.namespace))
    assert res.rotation.why == ""
    assert {recovery.worker: recovery.by for recovery in res.recoveries.active()} == {"w": "", "v": "v"}
    assert res.recoveries.end(replace(before["v"], by="v"), "v")
    until(lambda: conduct.tend(broker) or res.rotation.why, what="now it leaves")
    assert terms == []


def test_what_was_begun_with_a_worker_is_not_begun_again_a_moment_later_whoever_asks(
    app: Celery, redis_url: str
) -> None:
    first = app.resilience.recoveries
    assert first.ask(WorkerAction.DEGRADE, "w", CAUSE, 30.0)
    [recovery] = first.active()
    assert first.ledger.take(recovery, "w", "begun")
    assert first.end(replace(recovery, by="w"), "w")
    other = Celery("other process", broker=redis_url, set_as_current=False)
    second = Resilience(other).recoveries
    try:
        assert not second.ask(WorkerAction.DEGRADE, "w", CAUSE, 30.0), "its own processes may all ask at once"
        assert second.ask(WorkerAction.RECONNECT, "w", CAUSE, 30.0)
    finally:
        second._breakers.close()
        other.close()
