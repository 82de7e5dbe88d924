"""Freeing resources: every hook gets its chance, the time is bounded, threads do it once, and Redis is not needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from resilience import Breakers
from resilience.local.redis_server import RedisServer
from resilience.recovery.ledger import Cause, Count
from resilience.recovery.orchestrator import Recoveries
from resilience.testing import RecordingSink, until
from signals.bus import Bus
from signals.events import RecoveryEnded, RecoveryStarted

CAUSE = Cause("resource_error", "critical", "id1", "shop.charge", "payments", "resource_error: no memory left")
Make = Callable[..., Recoveries]


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def make_on(sink: RecordingSink) -> Iterator[Make]:
    """`make_on(url, *hooks)`: the recoveries of a process with these hooks."""
    made: list[Breakers] = []

    def make(url: str, *hooks: Callable[[], object]) -> Recoveries:
        bus = Bus()
        bus.subscribe(sink)
        breakers = Breakers.from_url(url, bus=bus)
        made.append(breakers)
        return Recoveries(breakers, bus, hooks)

    yield make
    for breakers in made:
        breakers.close()


def test_a_hook_that_fails_keeps_no_other_from_its_turn_and_it_is_said(
    make_on: Make, redis_url: str, sink: RecordingSink
) -> None:
    called: list[str] = []

    def fails() -> None:
        called.append("fails")
        raise OSError("password=hunter2 is no file")

    recoveries = make_on(redis_url, fails, lambda: called.append("works"))
    assert not recoveries.free_resources(CAUSE, 5.0)
    assert called == ["fails", "works"]
    assert recoveries.counts() == [Count("free_resources", "resource_error", initiated=1, failed=1)]
    [ended] = sink.of(RecoveryEnded)
    assert not ended.succeeded
    assert "fails failed: OSError" in ended.trouble
    assert "hunter2" not in ended.trouble
    assert recoveries.active() == []


def test_a_hook_that_hangs_is_waited_for_no_longer_than_the_budget(
    make_on: Make, redis_url: str, sink: RecordingSink
) -> None:
    go = threading.Event()
    done: list[bool] = []
    recoveries = make_on(redis_url, lambda: done.append(go.wait()))
    assert not recoveries.free_resources(CAUSE, 0.05)
    assert not recoveries.free_resources(CAUSE, 0.05), "the next failure starts no second one"
    go.set()
    until(lambda: done, what="it came to an end")
    told = [event.trouble for event in sink.of(RecoveryEnded)]
    assert told == ["not done within 0.05 s", "a hook that was called earlier is not done yet"]
    assert recoveries.counts() == [Count("free_resources", "resource_error", initiated=2, failed=2)]
    until(lambda: recoveries.free_resources(CAUSE, 5.0), what="it is called again")
    assert len(done) == 2


def test_threads_that_fail_together_free_once_and_all_wait_for_it(make_on: Make, redis_url: str) -> None:
    began, go, freed = threading.Event(), threading.Event(), []

    def hook() -> None:
        began.set()
        assert go.wait(20)
        freed.append(time.monotonic())

    recoveries = make_on(redis_url, hook)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(recoveries.free_resources, CAUSE, 20.0) for _ in range(8)]
        assert began.wait(20)
        until(recoveries.ledger.active, what="it is written down")
        go.set()
        assert all(answer.result(20) for answer in asked)
    assert len(freed) < 8, "whoever came while it was freed has it done; only a late one does it again"
    until(lambda: not recoveries.ledger.active())


def test_without_redis_resources_are_freed_all_the_same_and_counted_when_it_is_back(
    make_on: Make, sink: RecordingSink
) -> None:
    freed: list[int] = []
    with RedisServer() as server:
        recoveries = make_on(server.url(), lambda: freed.append(1))
    assert recoveries.free_resources(CAUSE, 5.0)
    assert freed == [1]
    assert len(sink.of(RecoveryStarted)) == len(sink.of(RecoveryEnded)) == 1
    recoveries.tally.flush()
    assert recoveries.tally._counts["initiated|free_resources|resource_error"] == 1, "it waits"
