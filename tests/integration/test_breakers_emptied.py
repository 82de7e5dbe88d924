"""Redis is emptied under running processes: they notice, and the new life counts."""

from __future__ import annotations

import time

import redis

from resilience.testing import until
from tests.integration.breaker_kit import LONG, MakeBreakers, fail, refused


def test_processes_recover_within_two_seconds_when_redis_is_emptied(make: MakeBreakers, redis_url: str) -> None:
    breakers, other = make(policy=LONG), make(policy=LONG)
    fail(breakers)
    until(lambda: refused(other), within_s=1)
    with redis.Redis.from_url(redis_url) as operator:
        operator.flushall()
    began = time.monotonic()
    until(lambda: not refused(breakers) and not refused(other), within_s=2)
    fail(breakers)
    until(lambda: refused(other), within_s=2, what="the shared state counts again")
    assert time.monotonic() - began < 4


def test_emptying_redis_is_noticed_even_when_the_new_life_looks_like_the_old(
    make: MakeBreakers, redis_url: str
) -> None:
    """After a flush another circuit opens at once, so that the number of transitions is what it was."""
    breakers, other = make(), make()
    fail(breakers, 5, "a")
    until(lambda: refused(other, "a"), within_s=1)
    with redis.Redis.from_url(redis_url) as operator:
        operator.flushall()
    fail(make(), 5, "b")
    until(lambda: not refused(other, "a") and refused(other, "b"), within_s=2)
    fail(other, 5, "a")
    assert other.get_state("a") == "open", "outcomes are counted under the new life's epoch"
