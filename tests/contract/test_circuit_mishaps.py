"""What happens to a circuit beside calls: the server's clock is set back, memory runs out, an order comes too late.

Told step by step to both sides, `machine.py` and `circuit.lua`; `Pair` compares all that follows from each step.
"""

from __future__ import annotations

import pytest
import redis

from resilience.breaker.machine import FORCES, Action, Outcome, State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.snapshot import snapshot_of
from resilience.breaker.store import CircuitStore
from resilience.local.redis_server import RedisServer
from resilience.shared_redis import SharedRedis
from tests.contract.pair import MakePair, Pair

QUICK = BreakerPolicy(consecutive_failures=1, open_s=60, jitter=0.0, half_open_permits=1, success_threshold=1, ramp_s=9)
HOUR_MS = 3_600_000


def opened(pair: MakePair) -> Pair:
    both = pair(QUICK)
    both.fail()
    assert both.circuit.state is State.OPEN
    return both


def half_open(pair: MakePair) -> Pair:
    both = opened(pair)
    both.now = both.circuit.until_ms
    assert both.admit("p1", 5_000)
    return both


# -- the server's clock is set back, as by a failover to a host that is behind -----------------------------------------


@pytest.mark.parametrize("back_ms", [1, 300, HOUR_MS])
def test_an_open_circuit_is_probed_after_its_open_time_at_the_latest(pair: MakePair, back_ms: int) -> None:
    both = opened(pair)
    both.now -= back_ms
    assert not both.admit("p", 1_000)
    assert both.circuit.until_ms - both.now == 60_000
    both.now += 60_000
    assert both.admit("p", 1_000)


def test_probes_that_were_on_their_way_make_room_for_new_ones(pair: MakePair) -> None:
    both = half_open(pair)
    both.now -= HOUR_MS
    before = both.circuit.epoch
    assert both.admit("p2", 5_000)
    both.settle("p1", "failure")
    assert (both.circuit.state, both.circuit.epoch) == (State.HALF_OPEN, before), "nobody waits for it any more"
    both.settle("p2", "success")
    assert both.circuit.state is State.CLOSED


def test_a_ramp_takes_no_longer_than_a_ramp(pair: MakePair) -> None:
    both = half_open(pair)
    both.settle("p1", "success")
    both.now -= HOUR_MS
    both.record(Outcome(both.circuit.epoch, "w1", 1))
    assert both.circuit.until_ms - both.now == 9_000


@pytest.mark.parametrize("action", list(FORCES))
def test_a_forced_state_lasts_no_longer_than_the_operator_said(pair: MakePair, action: Action) -> None:
    both = pair(QUICK)
    both.order(action, ttl_ms=5_000)
    both.now -= HOUR_MS
    both.record(Outcome(both.circuit.epoch, "w1", 1))
    assert both.circuit.until_ms - both.now == 5_000
    both.now += 5_000
    both.admit("p", 1_000)
    assert both.circuit.state not in FORCES.values()


def test_a_worker_that_is_alone_now_is_believed_after_a_window(pair: MakePair) -> None:
    both = pair(BreakerPolicy(consecutive_failures=2, minimum_calls=1_000, window_s=12))
    for worker in ("w2", "w1"):
        both.record(Outcome(1, worker, 1))
    both.now -= HOUR_MS
    both.fail("w1", 2)
    assert both.circuit.opens == 0
    both.now += 12_000
    both.fail("w1")
    assert both.circuit.opens == 1


def test_who_only_looks_is_told_the_same_before_anybody_calls(redis_server: RedisServer, redis_url: str) -> None:
    """A process that starts after the failover believes the index; nobody would ask for an hour if that said so."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        store = CircuitStore(SharedRedis(client, "parity"))
        now_ms = store.server_time_ms()
        store.record("a", QUICK, Outcome(1, "w1", failure=True), 0.0, now_ms + HOUR_MS)
        assert store.index()["a"].remaining_ms == 60_000
        shown = snapshot_of(store.describe(["a"], now_ms)["a"], now_ms, QUICK)
    assert (shown["probe_in_s"], shown["changed_s_ago"]) == (60.0, 0.0)


# -- Redis evicts a key (maxmemory-policy allkeys-*) -------------------------------------------------------------------


@pytest.mark.parametrize("ttl_ms", [None, 5_000])
@pytest.mark.parametrize("action", list(FORCES))
def test_what_an_operator_said_outlives_the_circuit_s_hash(pair: MakePair, action: Action, ttl_ms: int | None) -> None:
    both = pair(QUICK)
    both.order(action, ttl_ms)
    epoch = both.circuit.epoch
    both.evict_circuit()
    both.now += 4_999
    assert both.admit("p", 1_000) is (action is not Action.FORCE_OPEN)
    assert (both.circuit.state, both.circuit.epoch) == (FORCES[action], epoch), "no process has to be told"
    both.evict_circuit()
    both.now += 1
    both.admit("p", 1_000)
    assert (both.circuit.state is FORCES[action]) is (ttl_ms is None)


def test_an_operator_sees_a_forced_circuit_whose_hash_was_evicted(pair: MakePair, redis_url: str) -> None:
    both = pair(QUICK)
    both.order(Action.DISABLE, ttl_ms=5_000)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.hset("parity:v1:circuits", mapping={"b": "open 3 0 0", "c": "nonsense"})
        both.evict_circuit()
        rows = CircuitStore(SharedRedis(client, "parity")).describe(["a", "b", "c", "d"], both.now)
    assert list(rows) == ["a"], "the others are closed, as far as anybody knows"
    shown = snapshot_of(rows["a"], both.now, QUICK)
    assert (shown["state"], shown["epoch"], shown["forced_for_s"]) == ("disabled", 2, 5.0)


def test_a_circuit_that_was_evicted_while_it_was_open_starts_closed_under_a_new_epoch(pair: MakePair) -> None:
    both = opened(pair)
    epoch = both.circuit.epoch
    both.evict_circuit()
    assert both.admit("p", 1_000)
    assert (both.circuit.state, both.circuit.epoch) == (State.CLOSED, epoch + 1)


@pytest.mark.parametrize("how", ["an admission", "an outcome of another epoch", "a refused order"])
def test_an_index_that_was_evicted_is_written_anew_by_who_may_not_know_it(
    pair: MakePair, redis_url: str, how: str
) -> None:
    both = pair(QUICK)
    both.order(Action.METRICS_ONLY)
    both.evict_index()
    both.record(Outcome(both.circuit.epoch, "w1", 1, failure=True))  # the usual path pays nothing for it
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.hgetall("parity:v1:circuits") == {}
        if how == "an admission":
            both.admit("p", 1_000)
        elif how == "a refused order":
            both.order(Action.RESET, epoch_off_by=1)
        else:
            both.record(Outcome(1, "w1", 1))
        assert client.hget("parity:v1:circuits", "a") == f"metrics_only 2 0 {both.now}"


def test_a_mangled_row_is_none(pair: MakePair, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as stranger:
        both = pair(QUICK)
        stranger.hset("parity:v1:circuits", "a", "not a row of ours")
    both.fail()
    assert (both.circuit.state, both.circuit.epoch) == (State.OPEN, 2)


# -- an order for an epoch that is over --------------------------------------------------------------------------------


def test_an_order_that_is_refused_creates_no_circuit(pair: MakePair, redis_url: str) -> None:
    both = pair(QUICK)
    for action in Action:
        both.order(action, epoch_off_by=1)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.keys("*") == ["parity:v1:audit"], "it was said, so it is written down"
    both.order(Action.FORCE_OPEN, epoch_off_by=0)
    assert both.circuit.state is State.FORCED_OPEN


def test_an_order_that_is_refused_does_not_bring_a_forgotten_circuit_back(pair: MakePair) -> None:
    both = opened(pair)
    both.stay_quiet_for_a_week()
    both.order(Action.FORCE_OPEN, epoch_off_by=-1)
    assert both.admit("p", 1_000)
