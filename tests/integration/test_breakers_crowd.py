"""Many circuits and many processes: what one call or one transition costs does not grow with them."""

from __future__ import annotations

import time
from typing import Any

import redis

from resilience.breaker.pending import AT_ONCE, FLUSH_AFTER_S
from resilience.breaker.watcher import TURN_S
from resilience.testing import until
from tests.integration.breaker_kit import MakeBreakers, fail, refused

CIRCUITS = 300
READS_PER_FLUSH = 30
"""A few pipelines, which the server reads in pieces; a watcher's questions."""


def test_a_process_that_uses_many_circuits_in_turn_does_not_ask_redis_for_each(
    make: MakeBreakers, redis_url: str
) -> None:
    breakers = make()
    breakers.admit("c-0").settle()
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("stats")["total_reads_processed"]
        began = time.monotonic()
        for number in range(CIRCUITS):
            breakers.admit(f"c-{number}").settle()
        breakers.flush()
        lasted = time.monotonic() - began
        reads = client.info("stats")["total_reads_processed"] - before
    allowed = AT_ONCE * (1 + lasted / FLUSH_AFTER_S) + READS_PER_FLUSH * (1 + lasted / TURN_S)
    assert reads <= allowed, f"{reads} round trips for {CIRCUITS} calls in {lasted:.2f} s"
    shown = breakers.snapshots()
    assert {name: row["calls"] for name, row in shown.items()} == {
        "c-0": 2, **{f"c-{number}": 1 for number in range(1, CIRCUITS)}
    }  # fmt: skip


def test_transitions_that_were_pushed_make_no_process_read_all_circuits(make: MakeBreakers, redis_url: str) -> None:
    """Now and then a look falls between a transition and its push; without pushes each look would read everything."""
    fleet = [make() for _ in range(2)]
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()

        def ran(command: str) -> int:
            stats: dict[str, Any] = client.info("commandstats")
            return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))

        for breakers in fleet:
            breakers.admit("a").settle()
        until(lambda: ran("hgetall") >= len(fleet), what="each has looked when it started")
        looks = ran("hgetall")
        for _ in range(10):
            polls = ran("get")
            fail(fleet[0])
            until(lambda: all(refused(breakers) for breakers in fleet), within_s=2)
            fleet[0].reset("a", actor="ann", reason="again")
            until(
                lambda polls=polls: ran("get") >= polls + len(fleet), within_s=5, what="each watcher has had its turn"
            )
        assert ran("hgetall") - looks <= 12, "two at each of ten turns, if pushes were not heard"
