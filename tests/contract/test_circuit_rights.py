"""What `circuit.lua` does for a Redis user who lacks a right: all of a transition, or nothing and an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from resilience.breaker.machine import Outcome, State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import CircuitStore
from resilience.local.redis_server import RedisServer
from resilience.shared_redis import SharedRedis

QUICK = BreakerPolicy(consecutive_failures=1, open_s=60, jitter=0.0)

StoreOf = Callable[..., CircuitStore]


@pytest.fixture
def store_of(redis_server: RedisServer, redis_url: str) -> Iterator[StoreOf]:
    """Makes a store whose user may do everything but what the ACL rules say."""
    clients: list[redis.Redis] = []

    def make(*rules: str) -> CircuitStore:
        with redis.Redis.from_url(redis_url) as operator:
            operator.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">p", "~*", "&*", "+@all", *rules)
        clients.append(redis.Redis.from_url(redis_url, username="limited", password="p", decode_responses=True))
        return CircuitStore(SharedRedis(clients[-1], "rights"))

    yield make
    for client in clients:
        client.close()
    with redis.Redis.from_url(redis_server.url()) as operator:
        operator.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("rules", [["-publish"], ["resetchannels"]], ids=["no command", "no channel"])
def test_a_trip_is_whole_though_nobody_may_be_told_of_it(store_of: StoreOf, rules: list[str]) -> None:
    store = store_of(*rules)
    before = store.version()
    reply = store.record("a", QUICK, Outcome(1, "w1", failure=True), 0.0)
    assert (reply.granted, reply.old, reply.state, reply.epoch) == (True, State.CLOSED, State.OPEN, 2)
    assert store.index()["a"].state is State.OPEN
    assert store.version() > before, "who polls it sees that something happened"


@pytest.mark.parametrize("rules", [["-@scripting"], ["-evalsha"], ["-set"], ["-@write"], ["resetkeys", "~other:*"]])
def test_the_knock_raises_where_a_script_may_not_write(store_of: StoreOf, rules: list[str]) -> None:
    with pytest.raises(redis.ResponseError):
        store_of(*rules).knock()


def test_the_knock_passes_with_all_rights_and_leaves_nothing_behind(store_of: StoreOf, redis_url: str) -> None:
    store_of().knock()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert {key: client.pttl(key) <= 1_000 for key in client.scan_iter("*")} in ({}, {"rights:v1:knock": True})
