"""What was cut short by a death begins before what the worker that takes it over has taken and not begun."""

from __future__ import annotations

import os
import signal

import pytest

from tests.claims import windows
from tests.integration.works_kit import Side

NOTES = ["[0]", "[1]", "[2]"]
WIDE = {"worker_prefetch_multiplier": 10}


def fill(side: Side, queue: str) -> None:
    """A task that runs until `go("other")`, and notes behind it."""
    side.send("hold", "other", queue=queue)
    for number in range(len(NOTES)):
        side.send("note", "order", number, queue=queue)


def end(side: Side, count: int) -> list[str]:
    side.go("order")
    side.go("other")
    side.until(lambda: len(side.ran("order")) == count, "all ran")
    return side.ran("order")


@pytest.mark.parametrize("side", ["prefork", "threads"], indirect=True)
def test_what_ran_in_a_killed_worker_goes_before_a_window_and_what_only_waited_behind_it(side: Side) -> None:
    victim = side.worker("victim", queues="celery", concurrency=1, conf=WIDE)
    victim.wait_ready(40)
    side.send("hold", "order")
    side.send("note", "order", "waited")
    side.until(lambda: side.began("order") and not side.queued(), "the victim holds both")
    side.worker("other", queues="celery,second", concurrency=1, conf=WIDE).wait_ready(40)
    fill(side, "second")
    side.until(lambda: side.began("other") and not side.queued("second"), "the other's window is taken")
    victim.kill()
    side.until(lambda: windows(side.broker) == [len(NOTES) + 3], "the other holds all of them")
    assert end(side, len(NOTES) + 2) == ["0", *NOTES, '["waited"]']


@pytest.mark.parametrize("side", ["prefork"], indirect=True)
@pytest.mark.parametrize("multiplier", [1, 10], ids=["in the queue", "in the window"])
def test_what_ran_in_a_killed_child_goes_before_all_that_waits(side: Side, multiplier: int) -> None:
    side.worker(concurrency=1, conf={"worker_prefetch_multiplier": multiplier}).wait_ready(40)
    cut_short = side.send("hold", "order")
    fill(side, "celery")
    pid = side.until(lambda: side.book.lindex("pids:order", 0), "it runs")
    os.kill(int(pid), signal.SIGKILL)
    side.until(lambda: side.began("other"), "the next one runs")
    assert cut_short.state == "RETRY"

    def waits_again() -> bool:
        reserved = [waiting["id"] for waiting in side.ask("reserved")]
        return cut_short.id in reserved or cut_short.id in str(side.broker.lindex("celery", -1))

    side.until(waits_again, "the first one waits again")
    assert end(side, len(NOTES) + 1) == ["0", *NOTES]


@pytest.mark.parametrize("side", ["prefork"], indirect=True)
def test_what_is_cut_short_again_waits_behind_all_others(side: Side) -> None:
    """It may be the task itself that kills."""
    side.worker(concurrency=1, conf={"worker_prefetch_multiplier": 1}).wait_ready(40)
    cut_short = side.send("hold", "order")
    side.send("hold", "first")
    fill(side, "celery")
    for times, others, place in ((1, "first", -1), (2, "other", 0)):
        pids = side.until(lambda times=times: side.book.lrange("pids:order", times - 1, -1), "it runs")
        os.kill(int(pids[0]), signal.SIGKILL)
        side.until(lambda others=others: side.began(others), "the next one runs")
        side.until(lambda: any(cut_short.id in raw for raw in side.broker.lrange("celery", 0, -1)), "it waits again")
        assert cut_short.id in str(side.broker.lindex("celery", place)), "in front of the others, and then behind them"
        side.go("first")
    assert end(side, len(NOTES) + 1) == [*NOTES, "0"]
