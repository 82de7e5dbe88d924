"""Work goes where its circuit says now, however it was sent, and comes home by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience import BreakerPolicy, Breakers
from resilience.testing import until
from tasks.upstream import Upstream
from tests.integration.bank_kit import BANK, Start, Traffic, set_to, start

__all__ = ["start"]  # a fixture

BY = {"actor": "test", "reason": "the table asks for it"}


@pytest.fixture
def breakers(shop_redis: str) -> Iterator[Breakers]:
    brief = BreakerPolicy(open_s=1.0, open_max_s=1.0, ramp_s=0.5)
    made = Breakers.from_url(f"{shop_redis}/0", policies=dict.fromkeys(("ledger", "ledger@second"), brief))
    yield made
    made.close()


def by_every_way(shop_redis: str) -> dict[str, str]:
    """Where a transfer ran, by how it was sent, from a process of its own."""
    env = {**os.environ, "BANK_REDIS": shop_redis}
    done = subprocess.run([sys.executable, "ways.py"], cwd=BANK, env=env, stdout=-1, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_however_it_is_sent_a_task_runs_where_its_circuit_says_now(
    shop_redis: str, start: Start, breakers: Breakers, book: redis.Redis, tmp_path: Path
) -> None:
    beat = ("-B", "-s", str(tmp_path / "schedule"))
    home = start("home", pool="threads", concurrency=4)
    start("second", queues="second", env={"BANK_BEAT": "1"}, args=beat).wait_ready()
    home.wait_ready()

    def swept() -> str:
        """Where beat's next task but one runs: the next may have been on its way."""
        count = book.llen("swept") + 2
        until(lambda: book.llen("swept") >= count, what="beat goes on")
        return str(book.lindex("swept", -1))

    for state, queue in (("closed", "celery"), ("open", "second"), ("closed again", "celery")):
        if state == "open":
            breakers.force_open("ledger", **BY)
        elif state == "closed again":
            breakers.reset("ledger", **BY)
        found = by_every_way(shop_redis)
        assert found == dict.fromkeys(found, queue), state
        assert len(found) == 15
        assert swept() == queue, state


def test_with_circuits_off_nothing_is_routed(shop_redis: str, start: Start, breakers: Breakers) -> None:
    """The twin of the test above."""
    start("home", pool="threads", env={"RESILIENCE_BREAKERS_ENABLED": "false"}).wait_ready()
    breakers.force_open("ledger", **BY)
    with redis.Redis.from_url(f"{shop_redis}/0") as client:
        env = {**os.environ, "BANK_REDIS": shop_redis, "RESILIENCE_BREAKERS_ENABLED": "false"}
        send = "import tasks; print(tasks.transfer.delay(0).get(timeout=20))"
        done = subprocess.run([sys.executable, "-c", send], cwd=BANK, env=env, stdout=-1, text=True, check=True)
        assert client.exists("celeriac:v1:circuit:ledger")
    assert done.stdout.strip() == "celery"


@pytest.mark.parametrize("by_itself", [True, False], ids=["a retry of its own", "a retry by the matrix"])
def test_a_retry_follows_its_circuit_over_and_back(
    shop_redis: str, start: Start, breakers: Breakers, by_itself: bool
) -> None:
    start("home", pool="threads")
    start("second", queues="second").wait_ready()
    stock = Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    with stock:
        over = stock.send_task("tasks.twice", (by_itself, "open"))
        assert over.get(timeout=20) == "second", "it began at home, and its circuit opened meanwhile"
        back = stock.send_task("tasks.twice", (by_itself, "reset"))
        assert back.get(timeout=20) == "celery", "it began on the fallback, and its circuit closed meanwhile"


def test_the_secondary_is_used_again_before_the_primary_is_well(
    shop_redis: str, start: Start, breakers: Breakers, tmp_path: Path
) -> None:
    """Three levels: the first two break, the second comes back first, then the first. Traffic flows all the time."""
    with Upstream() as first, Upstream() as second:
        env = {"BANK_CELERY": first.url, "BANK_SECOND": second.url}
        start("home", pool="threads", concurrency=4, env=env)
        start("second", queues="second", pool="threads", concurrency=4, env=env)
        start("third", queues="third", pool="threads").wait_ready()
        with Traffic(shop_redis) as traffic:
            for down, up, now in (((), (), "celery"), ((first,), (), "second"), ((second,), (), "third"),
                                  ((), (second,), "second"), ((), (first,), "celery")):  # fmt: skip
                for upstream in down:
                    set_to(upstream, "503")
                for upstream in up:
                    set_to(upstream, "ok")
                until(lambda: traffic.last(10) == [now] * 10, within_s=30, what=f"all of it is done by {now}")  # noqa: B023
        found = traffic.answers()
    assert set(found) <= {"celery", "second", "third"}, "each was answered"
    assert traffic.ran() == Counter(range(len(found))), "once"


def test_an_upstream_that_flaps_makes_circuits_and_tasks_move_no_more_than_it_flaps(
    shop_redis: str, start: Start, breakers: Breakers, book: redis.Redis
) -> None:
    flaps = 4
    with Upstream() as first:
        home = start("home", pool="threads", concurrency=4, env={"BANK_CELERY": first.url})
        start("second", queues="second", pool="threads").wait_ready()
        home.wait_ready()
        with Traffic(shop_redis) as traffic:
            until(lambda: traffic.last(10) == ["celery"] * 10, what="traffic flows")
            began = time.monotonic()
            for _ in range(flaps):
                for mode, queue in (("503", "second"), ("ok", "celery")):
                    set_to(first, mode)
                    until(lambda: traffic.last(5) == [queue] * 5, within_s=30, what=f"it is {mode}")  # noqa: B023
            took_s = time.monotonic() - began
        found = traffic.answers()
    assert set(found) <= {"celery", "second"}
    assert traffic.ran() == Counter(range(len(found)))
    # At most: while it is down each probe opens it again, once a second. At least: on the ramp after a closing the
    # traffic may go round a breakdown that is over before five calls have failed.
    opened = home.log().count(" -> open for ")
    assert 1 <= opened <= flaps + took_s + 1
    assert home.log().count("circuit ledger: half_open -> closed") <= flaps + 1
