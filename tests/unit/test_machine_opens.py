"""What opens a circuit: failures in a row, and the share of failed, slow and rate-limited calls in its window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilience.breaker import machine
from resilience.breaker.machine import Circuit, Outcome, State, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import Tally
from tests.unit.circuits import NOW, POLICY, fail, half_open, limit, succeed, told

NO_STREAK = 10_000
"""So many failures in a row that only ratios can open it."""

# -- opening by failures in a row ----------------------------------------------------------------------------------


def test_the_fifth_failure_in_a_row_opens_it_and_says_why() -> None:
    circuit = Circuit()
    for _ in range(4):
        circuit = fail(circuit)
    assert circuit.state is State.CLOSED

    circuit, transition = machine.record(circuit, Outcome(1, "w1", failure=True), POLICY, NOW, 0.0)

    assert (circuit.state, circuit.epoch) == (State.OPEN, 2)
    assert transition == Transition(State.CLOSED, State.OPEN, "5 failures in a row")


def test_a_success_starts_the_count_anew() -> None:
    circuit = Circuit()
    for _ in range(4):
        circuit = fail(circuit)
    circuit = succeed(circuit)
    for _ in range(4):
        circuit = fail(circuit)
    assert circuit.state is State.CLOSED
    assert fail(circuit).state is State.OPEN


def test_successes_that_come_with_a_failure_are_older_than_it() -> None:
    circuit = Circuit()
    for _ in range(4):
        circuit = fail(circuit)
    circuit, _ = machine.record(circuit, Outcome(1, "w1", successes=1, failure=True), POLICY, NOW, 0.0)
    assert circuit.streak == 1


def test_one_bad_worker_of_two_does_not_open_the_circuit_of_the_fleet() -> None:
    circuit = succeed(Circuit(), worker="good")
    for _ in range(12):
        circuit = fail(circuit, "bad")
    assert circuit.state is State.CLOSED


def test_failures_of_two_workers_open_it() -> None:
    circuit = succeed(Circuit(), worker="w2")
    for _ in range(4):
        circuit = fail(circuit, "w1")
    assert fail(circuit, "w2").state is State.OPEN


def test_a_second_worker_is_forgotten_after_a_window_of_silence() -> None:
    circuit = fail(succeed(Circuit(), worker="w2"), "w1")
    later = NOW + POLICY.window_ms
    for _ in range(3):
        circuit = fail(circuit, "w1", now_ms=later - 1)
    assert fail(circuit, "w1", now_ms=later - 1).state is State.CLOSED
    assert fail(circuit, "w1", now_ms=later).state is State.OPEN


# -- opening by ratio ----------------------------------------------------------------------------------------------


def test_half_of_twenty_calls_failed_opens_it() -> None:
    policy = BreakerPolicy(consecutive_failures=1000)
    circuit = succeed(Circuit(), 10)
    for _ in range(9):
        circuit = fail(circuit, policy=policy)
    assert circuit.state is State.CLOSED
    circuit, transition = machine.record(circuit, Outcome(1, "w1", failure=True), policy, NOW, 0.0)
    assert transition == Transition(State.CLOSED, State.OPEN, "10 of 20 calls failed")


def test_below_the_minimum_of_calls_the_ratio_says_nothing() -> None:
    policy = BreakerPolicy(minimum_calls=20, consecutive_failures=1000)
    circuit = Circuit()
    for _ in range(19):
        circuit = fail(circuit, policy=policy)
    assert circuit.state is State.CLOSED
    assert fail(circuit, policy=policy).state is State.OPEN


def test_with_enough_calls_failures_in_a_row_alone_do_not_open_it() -> None:
    circuit = succeed(Circuit(), 100)
    for _ in range(50):
        circuit = fail(circuit)
    assert (circuit.state, circuit.streak) == (State.CLOSED, 50)


def test_one_worker_alone_may_open_it_by_ratio() -> None:
    circuit = succeed(Circuit(), 10, worker="good")
    for _ in range(10):
        circuit = fail(circuit, "bad")
    assert circuit.state is State.OPEN


def test_a_success_opens_nothing_even_when_the_ratio_is_bad() -> None:
    policy = BreakerPolicy(minimum_calls=4, failure_ratio=0.5, consecutive_failures=1000)
    circuit = Circuit()
    for _ in range(3):
        circuit = fail(circuit, policy=policy)
    circuit, transition = machine.record(circuit, Outcome(1, "w1", successes=1), policy, NOW, 0.0)
    assert (circuit.state, transition) == (State.CLOSED, None)


def test_the_failure_ratio_is_reached_not_only_passed() -> None:
    policy = BreakerPolicy(consecutive_failures=NO_STREAK, minimum_calls=4, failure_ratio=0.75)
    circuit = fail(succeed(Circuit(), 1, policy=policy), policy=policy, times=2)
    assert circuit.state is State.CLOSED
    assert fail(circuit, policy=policy).state is State.OPEN, "3 of 4 is 0.75"


# -- slow calls ----------------------------------------------------------------------------------------------------

BY_TIME = BreakerPolicy(consecutive_failures=NO_STREAK, minimum_calls=10, slow_call_s=1.0, slow_ratio=0.8, jitter=0)
BY_COUNT = BY_TIME.model_copy(update={"window_calls": 10})


@pytest.mark.parametrize("policy", [BY_TIME, BY_COUNT], ids=["of the last minute", "of the last ten calls"])
def test_eight_slow_calls_of_ten_open_it_and_seven_do_not(policy: BreakerPolicy) -> None:
    circuit = succeed(Circuit(), 9, slow=7, policy=policy)
    assert circuit.state is State.CLOSED
    assert succeed(circuit, 1, slow=0, policy=policy).state is State.CLOSED, "seven of ten"
    circuit, transition = machine.record(circuit, Outcome(1, "w1", 1, slow=1), policy, NOW, 0.0)
    assert transition == Transition(State.CLOSED, State.OPEN, "8 of 10 calls were slow")


@pytest.mark.parametrize("policy", [BY_TIME, BY_COUNT], ids=["of the last minute", "of the last ten calls"])
def test_below_the_minimum_of_calls_slow_ones_say_nothing(policy: BreakerPolicy) -> None:
    circuit = succeed(Circuit(), 9, slow=9, policy=policy)
    assert circuit.state is State.CLOSED
    assert succeed(circuit, 1, slow=1, policy=policy).state is State.OPEN


@pytest.mark.parametrize("policy", [BY_TIME, BY_COUNT], ids=["of the last minute", "of the last ten calls"])
def test_a_fast_success_opens_nothing_even_when_the_slow_share_is_bad(policy: BreakerPolicy) -> None:
    circuit = succeed(Circuit(), 9, slow=9, policy=policy)
    assert succeed(circuit, 1, policy=policy).state is State.CLOSED


def test_failures_and_rate_limits_can_be_slow_too() -> None:
    policy = BY_TIME.model_copy(update={"failure_ratio": 1.0, "rate_limit_ratio": 1.0, "slow_ratio": 0.3})
    circuit = succeed(Circuit(), 7, policy=policy)
    circuit = told(circuit, Outcome(1, "w1", failure=True, slow_failure=True), policy)
    circuit = told(circuit, Outcome(1, "w1", failure=True, limited=True, slow_failure=True), policy)
    assert machine.tally(circuit, policy).slow == 2
    circuit, transition = machine.record(circuit, Outcome(1, "w1", failure=True, slow_failure=True), policy, NOW, 0.0)
    assert transition == Transition(State.CLOSED, State.OPEN, "3 of 10 calls were slow")


def test_slow_calls_are_counted_but_open_nothing_while_the_trigger_is_off() -> None:
    circuit = succeed(Circuit(), 100, slow=100)
    assert POLICY.slow_call_s is None
    assert (circuit.state, machine.tally(circuit, POLICY).slow) == (State.CLOSED, 100)


def test_a_slow_probe_reopens_it_where_slow_calls_matter_and_only_there() -> None:
    outcome = Outcome(3, "w1", 1, permit="p", slow=1)
    circuit, transition = machine.record(half_open("p"), outcome, BY_TIME, NOW, 0.0)
    assert transition == Transition(State.HALF_OPEN, State.OPEN, "a probe was slow")
    assert told(half_open("p"), outcome, POLICY).probes_passed == 1
    assert circuit.opens == 2


# -- rate limits ---------------------------------------------------------------------------------------------------


def test_rate_limits_below_their_own_threshold_never_open_it() -> None:
    """89 of 100 calls, in a row and beyond every other threshold."""
    policy = BreakerPolicy(minimum_calls=20, failure_ratio=0.1, consecutive_failures=3, rate_limit_ratio=0.9)
    circuit = limit(succeed(Circuit(), 11), 89, policy)
    assert (circuit.state, circuit.streak) == (State.CLOSED, 0)
    assert machine.tally(circuit, policy) == Tally(successes=11, limited=89)


def test_rate_limits_at_their_threshold_open_it_and_say_so() -> None:
    circuit = limit(succeed(Circuit(), 2), 17)
    assert circuit.state is State.CLOSED
    circuit, transition = machine.record(circuit, Outcome(1, "w1", failure=True, limited=True), POLICY, NOW, 0.0)
    assert transition == Transition(State.CLOSED, State.OPEN, "18 of 20 calls were rate-limited")


def test_below_the_minimum_of_calls_rate_limits_alone_say_nothing() -> None:
    circuit = limit(Circuit(), 19)
    assert circuit.state is State.CLOSED
    assert limit(circuit).state is State.OPEN


def test_a_rate_limit_neither_raises_nor_resets_the_row_of_failures() -> None:
    circuit = limit(fail(Circuit(), times=4))
    assert (circuit.state, circuit.streak) == (State.CLOSED, 4)
    assert fail(circuit).state is State.OPEN


def test_a_rate_limit_does_not_make_a_row_of_one_worker_look_like_one_of_two() -> None:
    circuit = succeed(Circuit(), worker="w2")
    circuit = fail(circuit, "w1", times=4)
    circuit = told(circuit, Outcome(1, "w2", failure=True, limited=True))
    assert fail(circuit, "w1").state is State.CLOSED, "w2 was asked to slow down, it did not fail"
    assert fail(circuit, "w2").state is State.OPEN


def test_rate_limits_are_calls_but_no_failures_for_the_failure_ratio() -> None:
    policy = BreakerPolicy(consecutive_failures=NO_STREAK)
    circuit = fail(limit(Circuit(), 11, policy), policy=policy, times=9)
    assert circuit.state is State.CLOSED, "9 of 20 failed, 11 of 20 were limited"
    assert fail(circuit, policy=policy, times=2).state is State.OPEN, "11 of 22 failed"


def test_a_rate_limited_probe_reopens_it() -> None:
    outcome = Outcome(3, "w1", failure=True, permit="p", limited=True)
    _, transition = machine.record(half_open("p"), outcome, POLICY, NOW, 0.0)
    assert transition == Transition(State.HALF_OPEN, State.OPEN, "a probe was rate-limited")


# -- what is said when several reasons hold ------------------------------------------------------------------------


def test_failures_are_named_before_rate_limits_and_these_before_slow_calls() -> None:
    policy = BreakerPolicy(
        minimum_calls=4, failure_ratio=0.5, rate_limit_ratio=0.5, slow_call_s=1, slow_ratio=0.5, consecutive_failures=99
    )
    last = Outcome(1, "w1", failure=True, slow_failure=True)
    mixed = told(limit(Circuit(), 2, policy), replace(last, limited=False), policy)
    assert _why(mixed, last, policy) == "2 of 4 calls failed"
    mixed = told(limit(succeed(Circuit(), policy=policy), 1, policy), replace(last, limited=True), policy)
    assert _why(mixed, replace(last, limited=True), policy) == "3 of 4 calls were rate-limited"


def _why(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy) -> str:
    transition = machine.record(circuit, outcome, policy, NOW, 0.0)[1]
    assert transition is not None
    return transition.reason
