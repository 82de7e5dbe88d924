"""Edges that random histories seldom meet, told step by step to both sides: `machine.py` and `circuit.lua`.

`Pair` compares all that follows from each step; the tests say where it should lead.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from resilience.breaker.machine import FORCES, Action, Circuit, Outcome, State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import CircuitStore, Order
from resilience.local.redis_server import RedisServer
from resilience.shared_redis import SharedRedis
from tests.contract.pair import KINDS, PATIENT, MakePair, Pair

NOW = 1_700_000_000_000
QUICK = BreakerPolicy(
    consecutive_failures=1, open_s=1, open_max_s=604_800, jitter=0.5, half_open_permits=2, success_threshold=2, ramp_s=3
)


def state_of(pair: Pair) -> State:
    return pair.circuit.state


# -- open and ramp -------------------------------------------------------------------------------------------------


def test_open_times_double_up_to_the_cap_and_beyond_two_to_the_fortieth(pair: MakePair) -> None:
    both = pair(QUICK)
    both.fail(jitter=0.999)
    for _ in range(45):
        both.now = both.circuit.until_ms
        assert both.admit("p", 1_000)
        both.settle("p", "failure", jitter=0.999)
    assert both.circuit.opens == 46
    assert both.circuit.until_ms - both.now == 604_800_000 * 1.4995


@pytest.mark.parametrize(("after_ms", "opens"), [(0, 3), (2_999, 3), (3_000, 1), (900_000, 1)])
def test_what_opens_again_during_its_ramp_has_not_recovered(pair: MakePair, after_ms: int, opens: int) -> None:
    both = pair(QUICK)
    both.fail()
    for result in ("failure", "success", "success"):
        both.now = max(both.now, both.circuit.until_ms)
        both.admit("p", 1_000)
        both.settle("p", result)
    assert (state_of(both), both.circuit.until_ms) == (State.CLOSED, both.now + 3_000)
    both.now += after_ms
    both.fail()
    assert (state_of(both), both.circuit.opens) == (State.OPEN, opens)
    assert both.circuit.until_ms == both.now + 1_000 * 2 ** (opens - 1)


# -- permits -------------------------------------------------------------------------------------------------------


def half_open(pair: MakePair) -> Pair:
    both = pair(QUICK)
    both.fail()
    both.now = both.circuit.until_ms
    assert both.admit("p1", 1_000)
    return both


@pytest.mark.parametrize(("after_ms", "counts"), [(999, True), (1_000, False), (1_001, False)])
@pytest.mark.parametrize("result", ["success", "failure", "slow", "limited", "neutral"])
def test_a_permit_counts_until_its_lease_is_over(pair: MakePair, after_ms: int, counts: bool, result: str) -> None:
    both = half_open(pair)
    before = both.circuit
    both.now += after_ms
    both.settle("p1", result)
    assert (both.circuit != before) is counts


def test_expired_permits_give_their_places_back_and_a_known_one_is_renewed(pair: MakePair) -> None:
    both = half_open(pair)
    assert both.admit("p2", 500)
    assert not both.admit("p3", 500)
    both.now += 499
    assert not both.admit("p3", 500)
    assert both.admit("p1", 2_000), "asked again, it is the same permit with a new lease"
    both.now += 1
    assert both.admit("p3", 500)
    assert dict(both.circuit.permits) == {"p1": both.now + 1_999, "p3": both.now + 500}


def test_a_permit_is_settled_once_and_a_stranger_settles_nothing(pair: MakePair) -> None:
    both = half_open(pair)
    both.settle("p1", "success")
    for permit in ("p1", "stranger", ""):
        before = both.circuit
        both.settle(permit, "failure")
        assert both.circuit == before


@pytest.mark.parametrize("slow_call_s", [None, 1.0])
def test_a_slow_probe_counts_by_the_policy(pair: MakePair, slow_call_s: float | None) -> None:
    both = half_open(pair)
    both.policy = QUICK.model_copy(update={"slow_call_s": slow_call_s})
    both.settle("p1", "slow")
    assert state_of(both) is (State.HALF_OPEN if slow_call_s is None else State.OPEN)


# -- thresholds that are reached, not passed -----------------------------------------------------------------------


@pytest.mark.parametrize("window_calls", [None, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_half_of_exactly_the_minimum_opens_it(pair: MakePair, kind: str, window_calls: int | None) -> None:
    policy = BreakerPolicy(
        consecutive_failures=10_000, minimum_calls=20, failure_ratio=0.5 if kind == "failure" else 1.0,
        rate_limit_ratio=0.5, slow_call_s=1.0, slow_ratio=0.5, window_calls=window_calls,
    )  # fmt: skip
    both = pair(policy)
    both.record(Outcome(1, "w1", 10))
    for _ in range(9):
        both.record(KINDS[kind])
    assert state_of(both) is State.CLOSED
    both.record(KINDS[kind])
    assert state_of(both) is State.OPEN


def test_successes_open_nothing_and_one_slow_call_of_many_is_looked_at(pair: MakePair) -> None:
    both = pair(BreakerPolicy(consecutive_failures=10_000, minimum_calls=4, slow_call_s=1.0, slow_ratio=0.5))
    both.record(Outcome(1, "w1", 3, slow=3))
    both.record(Outcome(1, "w1", 1))
    assert state_of(both) is State.CLOSED, "three of four were slow, but the last was not"
    both.record(Outcome(1, "w1", 1, slow=1))
    assert state_of(both) is State.OPEN


@pytest.mark.parametrize(("after_ms", "state"), [(11_999, State.CLOSED), (12_000, State.OPEN)])
def test_a_second_worker_matters_for_exactly_a_window(pair: MakePair, after_ms: int, state: State) -> None:
    both = pair(PATIENT.model_copy(update={"consecutive_failures": 2}))
    both.record(Outcome(1, "w2", 1))
    both.fail("w1")
    both.now += after_ms
    both.fail("w1")
    assert state_of(both) is state


# -- operators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", list(FORCES))
@pytest.mark.parametrize("then", ["admit", "record", "auto", "reset"])
@pytest.mark.parametrize("short_by_ms", [1, 0])
def test_a_forced_state_ends_with_its_time_or_by_his_word(
    pair: MakePair, action: Action, then: str, short_by_ms: int
) -> None:
    both = pair(QUICK)
    both.fail()
    both.order(action, ttl_ms=5_000)
    assert both.circuit.opens == 1, "how often it opened is not forgotten yet"
    both.now = both.circuit.until_ms - short_by_ms
    deeds: dict[str, Callable[[], object]] = {
        "admit": lambda: both.admit("p", 1_000),
        "record": both.fail,
        "auto": lambda: both.order(Action.AUTO),
        "reset": lambda: both.order(Action.RESET),
    }
    deeds[then]()
    forced = short_by_ms == 1 and then in ("admit", "record")
    probed = action is Action.FORCE_OPEN and then != "reset"
    assert state_of(both) is (FORCES[action] if forced else State.HALF_OPEN if probed else State.CLOSED)


@pytest.mark.parametrize("action", list(FORCES))
def test_in_a_forced_state_nothing_opens_or_closes_it(pair: MakePair, action: Action) -> None:
    both = pair(QUICK)
    both.order(action)
    both.fail("w1", 3)
    both.fail("w2", 3)
    both.be_limited("w1", 30)
    assert state_of(both) is FORCES[action]
    assert both.total.calls == (36 if action is Action.METRICS_ONLY else 0)


def test_an_order_for_another_epoch_is_written_down_and_changes_nothing(pair: MakePair) -> None:
    both = pair(QUICK)
    both.fail()
    for action in Action:
        both.order(action, epoch_off_by=-1)
        both.order(action, epoch_off_by=1)
    assert state_of(both) is State.OPEN
    both.order(Action.RESET, epoch_off_by=0)
    assert state_of(both) is State.CLOSED


# -- memory and clock -----------------------------------------------------------------------------------------------


def test_a_circuit_that_was_forgotten_goes_on_from_its_epoch(pair: MakePair) -> None:
    both = pair(QUICK)
    both.fail()
    both.stay_quiet_for_a_week()
    assert both.admit("p", 1_000)
    assert both.circuit == Circuit(epoch=3)


def test_without_a_time_of_the_caller_the_server_s_clock_counts(redis_server: RedisServer, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        store = CircuitStore(SharedRedis(client, "parity"))
        before_ms = store.server_time_ms()
        store.order("a", BreakerPolicy(), Order(Action.FORCE_OPEN, "ann", "why", ttl_s=5))
        after_ms = store.server_time_ms()
        row = store.describe(["a"], after_ms)["a"]
    assert before_ms <= int(row["changed"]) <= after_ms
    assert before_ms + 5_000 <= int(row["until"]) <= after_ms + 5_000
