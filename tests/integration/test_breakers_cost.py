"""What circuits cost: script calls and other commands, counted by Redis itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from resilience.testing import until
from tests.integration.breaker_kit import SHORT, MakeBreakers, fail, refused


@contextmanager
def commands(url: str) -> Iterator[dict[str, int]]:
    """Script calls (EVALSHA) that Redis ran inside the block; the watchers' polling uses none."""
    with redis.Redis.from_url(url) as client:

        def count() -> int:
            return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

        before, counted = count(), {"evalsha": 0}
        yield counted
        counted["evalsha"] = count() - before


def test_a_closed_circuit_costs_no_command_and_a_failure_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    fail(breakers, 1)
    with commands(redis_url) as used:
        permits = [breakers.admit("a") for _ in range(1000)]
    assert used["evalsha"] == 0
    with commands(redis_url) as used:
        permits[0].settle(TimeoutError())
        permits[0].settle(TimeoutError())
    assert used["evalsha"] == 1, "settled twice, counted once"


def test_successes_travel_together(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        began = time.monotonic()
        for _ in range(200):
            breakers.record_success("a")
        lasted = time.monotonic() - began
    assert used["evalsha"] <= 1 + lasted / 0.1
    breakers.flush()
    assert breakers.snapshot("a")["calls"] == 201


def test_a_failure_takes_the_waiting_successes_along(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        for _ in range(3):
            breakers.record_success("a")
        breakers.record_failure("a")
    assert used["evalsha"] <= 2
    shown = breakers.snapshot("a")
    assert (shown["calls"], shown["failures"], shown["streak"]) == (5, 1, 1)


def test_an_open_circuit_refuses_without_a_command_and_a_probe_costs_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=SHORT)
    fail(breakers)
    with commands(redis_url) as used:
        assert all(refused(breakers) for _ in range(10))
    assert used["evalsha"] == 0
    until(lambda: breakers.may_pass("a"), within_s=2)
    with commands(redis_url) as used:
        permit = breakers.admit("a")
    assert used["evalsha"] == 1
    with commands(redis_url) as used:
        permit.settle()
    assert used["evalsha"] == 1
