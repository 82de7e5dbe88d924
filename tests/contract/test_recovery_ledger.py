"""The ledger of recoveries on a real Redis: begun once, taken over once, ended once, bounded, forgotten in the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from resilience.recovery import ledger as ledger_module
from resilience.recovery.ledger import Cause, Count, Ledger
from resilience.shared_redis import SharedRedis, connect
from resilience.testing import until

CAUSE = Cause("connection_error", "major", "id1", "shop.charge", "payments", "connection_error: three in a row")


@pytest.fixture
def shared(redis_url: str) -> Iterator[SharedRedis]:
    shared = SharedRedis(connect(redis_url, 2.0), "test")
    yield shared
    shared.close()


@pytest.fixture
def ledger(shared: SharedRedis) -> Ledger:
    return Ledger(shared)


def test_what_is_under_way_is_told_whole_and_not_begun_again_until_it_has_ended(ledger: Ledger) -> None:
    assert ledger.begin("worker:w", "reconnect", CAUSE, 30.0, "asker", worker="w") == 1
    assert ledger.begin("worker:w", "degrade", CAUSE, 30.0, "another", worker="w") == 0
    [recovery] = ledger.active()
    assert (recovery.id, recovery.strategy, recovery.began_by, recovery.by) == ("worker:w", "reconnect", "asker", "")
    assert (recovery.worker, recovery.step, recovery.cause) == ("w", "asked for", CAUSE)
    assert recovery.deadline - recovery.since == pytest.approx(30.0)
    assert recovery.since <= recovery.now < recovery.deadline
    assert ledger.take(recovery, "w", "begun")
    assert ledger.active()[0].step == "begun"
    assert ledger.end("worker:w", "w", "reconnect", CAUSE.category, succeeded=True)
    assert ledger.active() == []
    assert ledger.begin("worker:w", "degrade", CAUSE, 30.0, "another", worker="w") == 1
    assert ledger.counts() == [
        Count("degrade", "connection_error", initiated=1),
        Count("reconnect", "connection_error", initiated=1, succeeded=1),
    ]


def test_what_was_begun_lately_is_not_begun_again_but_something_else_is(ledger: Ledger) -> None:
    assert ledger.begin("worker:w", "degrade", CAUSE, 30.0, "a", by="w", again_s=60.0) == 1
    assert ledger.end("worker:w", "w", "degrade", CAUSE.category, succeeded=True)
    assert ledger.begin("worker:w", "degrade", CAUSE, 30.0, "b", again_s=60.0) == 0
    assert ledger.begin("worker:w", "reconnect", CAUSE, 30.0, "b", again_s=60.0) == 1
    assert ledger.begin("worker:v", "degrade", CAUSE, 30.0, "b", again_s=60.0) == 1


def test_of_many_who_take_over_one_gets_it_and_only_that_one_may_end_it(ledger: Ledger) -> None:
    ledger.begin("free:1", "free_resources", CAUSE, 5.0, "dead", by="dead")
    [recovery] = ledger.active()
    judges = [f"judge{number}" for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = [judge for judge, taken in zip(judges, pool.map(
            lambda judge: ledger.take(recovery, judge, "taken over"), judges), strict=True) if taken]  # fmt: skip
        assert len(won) == 1
        ended = list(pool.map(
            lambda who: ledger.end("free:1", who, "free_resources", CAUSE.category, succeeded=False),
            [*judges, "dead", *won],
        ))  # fmt: skip
    assert sum(ended) == 1
    assert ledger.counts() == [Count("free_resources", "connection_error", initiated=1, failed=1)]
    assert not ledger.take(replace(recovery, by=won[0]), "late", "again"), "it has ended"


def test_too_many_are_refused_and_what_nobody_ends_is_forgotten(
    ledger: Ledger, shared: SharedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST", 2)
    monkeypatch.setattr(ledger_module, "KEPT_S", 0.2)
    assert [ledger.begin(name, "degrade", CAUSE, 0.1, "a") for name in ("one", "two", "three")] == [1, 1, -1]
    until(lambda: not ledger.serve("w", ["celery"]), what="it is told no more")
    assert ledger.active() == []
    assert ledger.begin("three", "degrade", CAUSE, 30.0, "a") == 1
    for key in shared.client.scan_iter("test:v1:recovery:*"):
        assert shared.client.pttl(key) > 0


def test_a_report_is_answered_with_how_the_other_workers_of_the_queue_fare(ledger: Ledger) -> None:
    ill, well = ("payments", "connection_error", "celery", True), ("payments", "connection_error", "celery", False)
    assert ledger.report("a", [ill]) == [(0, 0)], "nobody was asked before"
    for worker in ("a", "b", "c"):
        ledger.serve(worker, ["celery"])
    ledger.serve("d", ["other"])
    assert ledger.report("a", [ill]) == [(2, 0)]
    assert ledger.report("b", [ill]) == [(2, 1)]
    assert ledger.report("c", [ill, ("mail", "connection_error", "celery", True)]) == [(2, 2), (2, 0)]
    assert ledger.suffers("a", "payments", "connection_error", ["other", "celery"], 60.0)
    assert not ledger.suffers("a", "payments", "timeout_error", ["celery"], 60.0)
    assert ledger.report("a", [well]) == [(2, 2)]
    assert not ledger.suffers("a", "payments", "connection_error", ["celery"], 60.0)
    assert ledger.report("b", [ill]) == [(2, 1)]


def test_a_worker_that_says_no_more_that_it_serves_does_not_count(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "SERVES_S", 0.1)
    monkeypatch.setattr(ledger_module, "REPORT_S", 60.0)
    report = [("payments", "connection_error", "celery", True)]
    ledger.report("a", report)
    ledger.serve("b", ["celery"])
    until(lambda: ledger.report("a", report) == [(0, 0)], what="b is gone")


def test_a_fleet_without_trouble_writes_nothing(ledger: Ledger, shared: SharedRedis) -> None:
    assert ledger.serve("a", ["celery", "other"]) == []
    assert shared.client.dbsize() == 0
