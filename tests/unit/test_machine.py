"""The circuit's state machine as pure functions: what opens it, how long, what half-open lets pass, what closes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker import machine
from resilience.breaker.machine import LEGAL, Action, Circuit, Outcome, State, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import BUCKETS, Ring, Tally, bucket_of

POLICY = BreakerPolicy(jitter=0.0)
NOW = 1_700_000_000_000


def fail(circuit: Circuit, worker: str = "w1", policy: BreakerPolicy = POLICY, now_ms: int = NOW) -> Circuit:
    return machine.record(circuit, Outcome(circuit.epoch, worker, failure=True), policy, now_ms, 0.0)[0]


def succeed(circuit: Circuit, count: int = 1, worker: str = "w1", now_ms: int = NOW) -> Circuit:
    return machine.record(circuit, Outcome(circuit.epoch, worker, count), POLICY, now_ms, 0.0)[0]


def opened(opens: int = 1, policy: BreakerPolicy = POLICY, jitter: float = 0.0) -> Circuit:
    circuit = replace(Circuit(), opens=opens - 1, until_ms=NOW + 1)  # its ramp is not over: it never recovered
    for _ in range(policy.consecutive_failures):
        circuit = machine.record(circuit, Outcome(circuit.epoch, "w1", failure=True), policy, NOW, jitter)[0]
    assert circuit.state is State.OPEN
    return circuit


def half_open(*permits: str, lease_ms: int = 60_000, now_ms: int = NOW) -> Circuit:
    circuit = replace(Circuit(), state=State.HALF_OPEN, epoch=3, opens=1)
    for permit in permits:
        circuit, granted, _ = machine.admit(circuit, permit, lease_ms, POLICY, now_ms)
        assert granted
    return circuit


def probe(circuit: Circuit, permit: str, failure: bool = False, now_ms: int = NOW) -> Circuit:
    outcome = Outcome(circuit.epoch, "w1", 0 if failure else 1, failure, permit)
    return machine.record(circuit, outcome, POLICY, now_ms, 0.0)[0]


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


# -- the window ----------------------------------------------------------------------------------------------------


def test_the_window_forgets_what_is_older_than_itself() -> None:
    circuit = succeed(Circuit(), 10)
    circuit = succeed(circuit, 1, now_ms=NOW + POLICY.window_ms)
    assert circuit.ring.total().successes == 1


def test_the_window_keeps_what_is_a_bucket_younger_than_itself() -> None:
    circuit = succeed(Circuit(), 10)
    circuit = succeed(circuit, 1, now_ms=NOW + POLICY.window_ms - POLICY.window_ms // BUCKETS)
    assert circuit.ring.total().successes == 11


def test_a_clock_that_goes_back_a_little_counts_into_the_newest_bucket() -> None:
    ring = Ring().add(100, Tally(1)).add(98, Tally(1))
    assert (ring.head, ring.buckets[100 % BUCKETS]) == (100, Tally(2))


def test_a_longer_window_in_the_policy_does_not_freeze_the_old_counts() -> None:
    short, long = BreakerPolicy(window_s=60), BreakerPolicy(window_s=600)
    circuit = fail(Circuit(), policy=short)
    circuit = fail(circuit, policy=long)
    assert circuit.ring.total().failures == 1, "the buckets' numbers changed with the width: it starts anew"
    circuit = fail(circuit, policy=long, now_ms=NOW + long.window_ms)
    assert circuit.ring.total().failures == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 40_000), st.integers(0, 5), st.integers(0, 1)),
        max_size=40,
    )
)
def test_the_window_holds_the_recent_past_and_nothing_else(adds: list[tuple[int, int, int]]) -> None:
    """Everything of the last 11 buckets is counted, nothing from before the last 12."""
    ring, now, history = Ring(), NOW, []
    for step, successes, failures in adds:
        now += step
        bucket = bucket_of(now, POLICY.window_ms)
        ring = ring.add(bucket, Tally(successes, failures))
        history.append((bucket, successes, failures))
        recent = [row for row in history if row[0] > bucket - BUCKETS]
        assert ring.total() == Tally(sum(row[1] for row in recent), sum(row[2] for row in recent))


# -- open ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opens", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (6, 600), (400, 600)])
def test_open_time_doubles_with_every_reopening_up_to_the_cap(opens: int, seconds: int) -> None:
    assert opened(opens).until_ms - NOW == seconds * 1000


def test_jitter_adds_up_to_its_share_of_the_open_time() -> None:
    policy = BreakerPolicy(open_s=60, jitter=0.5)
    assert opened(policy=policy, jitter=0.0).until_ms - NOW == 60_000
    assert opened(policy=policy, jitter=0.5).until_ms - NOW == 75_000


@given(
    st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 1),
    st.floats(0.001, 86_400), st.floats(1, 7),
)  # fmt: skip
def test_open_time_is_never_shorter_than_asked_nor_longer_than_cap_and_jitter(
    opens: int, random: float, share: float, open_s: float, times: float
) -> None:
    policy = BreakerPolicy(open_s=open_s, open_max_s=open_s * times, jitter=share)
    lasts = policy.open_for_ms(opens, random)
    assert policy.open_ms <= lasts <= policy.open_max_ms * (1 + share)


def test_an_open_circuit_refuses_until_its_time_is_over_and_then_probes() -> None:
    circuit = opened()
    same, granted, transition = machine.admit(circuit, "p", 1000, POLICY, circuit.until_ms - 1)
    assert (same, granted, transition) == (circuit, False, None)

    probing, granted, transition = machine.admit(circuit, "p", 1000, POLICY, circuit.until_ms)
    assert granted
    assert transition == Transition(State.OPEN, State.HALF_OPEN, "open time is over")
    assert (probing.state, probing.epoch) == (State.HALF_OPEN, circuit.epoch + 1)


def test_outcomes_that_arrive_while_it_is_open_change_nothing() -> None:
    circuit = opened()
    for outcome in (Outcome(circuit.epoch, "w", 3), Outcome(circuit.epoch, "w", failure=True)):
        assert machine.record(circuit, outcome, POLICY, NOW, 0.0) == (circuit, None)


# -- half-open -----------------------------------------------------------------------------------------------------


def test_three_permits_are_given_and_no_fourth() -> None:
    circuit = half_open("a", "b", "c")
    _, granted, _ = machine.admit(circuit, "d", 1000, POLICY, NOW)
    assert not granted


def test_asking_again_with_the_same_id_is_the_same_permit() -> None:
    circuit = half_open("a", "b", "c")
    circuit, granted, _ = machine.admit(circuit, "a", 1000, POLICY, NOW)
    assert granted
    assert len(circuit.permits) == 3


def test_a_permit_is_a_lease_that_frees_itself() -> None:
    circuit = half_open("a", "b", "c", lease_ms=500)
    assert not machine.admit(circuit, "d", 500, POLICY, NOW + 499)[1]
    circuit, granted, _ = machine.admit(circuit, "d", 500, POLICY, NOW + 500)
    assert granted
    assert [name for name, _ in circuit.permits] == ["d"]


def test_an_expired_permit_does_not_count_any_more() -> None:
    circuit = half_open("a", lease_ms=500)
    assert probe(circuit, "a", failure=True, now_ms=NOW + 500) == circuit


def test_a_permit_is_settled_once() -> None:
    circuit = probe(half_open("a", "b"), "a")
    assert circuit.probes_passed == 1
    assert probe(circuit, "a") == circuit
    assert probe(circuit, "a", failure=True) == circuit, "a death after a settled success is no failure"


def test_an_outcome_without_a_permit_says_nothing_in_half_open() -> None:
    circuit = half_open("a")
    assert probe(circuit, "stranger", failure=True) == circuit
    assert probe(circuit, "", failure=True) == circuit


def test_a_neutral_probe_frees_its_place_and_says_nothing() -> None:
    circuit = half_open("a", "b", "c")
    circuit, transition = machine.record(circuit, Outcome(3, "w", permit="a"), POLICY, NOW, 0.0)
    assert transition is None
    assert (circuit.state, circuit.probes_passed) == (State.HALF_OPEN, 0)
    assert machine.admit(circuit, "d", 1000, POLICY, NOW)[1]


def test_three_passed_probes_close_it_with_an_empty_memory() -> None:
    circuit = half_open("a", "b", "c")
    for name in ("a", "b"):
        circuit = probe(circuit, name)
    circuit, transition = machine.record(circuit, Outcome(3, "w", 1, permit="c"), POLICY, NOW, 0.0)
    assert transition == Transition(State.HALF_OPEN, State.CLOSED, "3 probes passed")
    assert (circuit.epoch, circuit.streak, circuit.permits, circuit.ring) == (4, 0, (), Ring())


def test_one_failed_probe_reopens_it_for_twice_as_long() -> None:
    circuit = probe(half_open("a", "b"), "a", failure=True)
    assert (circuit.state, circuit.opens) == (State.OPEN, 2)
    assert circuit.until_ms - NOW == 120_000
    assert circuit.permits == ()


def test_a_late_success_of_an_older_epoch_cannot_close_it() -> None:
    circuit = half_open("a")
    late = Outcome(circuit.epoch - 2, "w1", successes=3, permit="a")
    assert machine.record(circuit, late, POLICY, NOW, 0.0) == (circuit, None)


@pytest.mark.parametrize("circuit", [Circuit(epoch=5), replace(opened(), epoch=5), replace(half_open("a"), epoch=5)])
@pytest.mark.parametrize("epoch", [4, 6])
def test_an_outcome_of_another_epoch_is_dropped(circuit: Circuit, epoch: int) -> None:
    for outcome in (Outcome(epoch, "w", 1, permit="a"), Outcome(epoch, "w", failure=True, permit="a")):
        assert machine.record(circuit, outcome, POLICY, NOW, 0.0) == (circuit, None)


# -- reset ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("circuit", [opened(3), half_open("a")])
def test_a_reset_closes_it_and_forgets(circuit: Circuit) -> None:
    closed, transition = machine.obey(circuit, Action.RESET, "reset by ann: vendor is back", 0, NOW)
    assert transition == Transition(circuit.state, State.CLOSED, "reset by ann: vendor is back")
    assert (closed.state, closed.epoch, closed.opens, closed.streak) == (State.CLOSED, circuit.epoch + 1, 0, 0)


def test_a_reset_of_a_closed_circuit_is_no_transition_but_forgets() -> None:
    circuit = fail(Circuit())
    closed, transition = machine.obey(circuit, Action.RESET, "why not", 0, NOW)
    assert transition is None
    assert (closed.streak, closed.epoch) == (0, circuit.epoch + 1)


# -- whatever happens ----------------------------------------------------------------------------------------------

_OPERATIONS = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abcdef"), st.integers(1, 5_000)),
    st.tuples(st.just("record"), st.sampled_from(["w1", "w2", "w3"]), st.integers(0, 4), st.booleans(),
              st.sampled_from(["", "a", "b", "c"]), st.integers(-1, 1)),
    st.tuples(st.just("order"), st.sampled_from(Action), st.sampled_from([0, 1, 500, 4_000])),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 250, 1_000, 2_000, 5_000, 60_000])),
)  # fmt: skip
_POLICIES = st.builds(
    lambda permits, threshold, failures, minimum, ratio: BreakerPolicy(
        consecutive_failures=failures, failure_ratio=ratio, window_s=3, minimum_calls=minimum,
        open_s=1, open_max_s=4, half_open_permits=permits, success_threshold=threshold,
    ),
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.floats(0.01, 1),
)  # fmt: skip


@given(_POLICIES, st.lists(_OPERATIONS, max_size=60), st.floats(0, 1, exclude_max=True))
def test_the_invariants_hold_whatever_happens(
    policy: BreakerPolicy, operations: list[tuple[object, ...]], jitter: float
) -> None:
    circuit, now = Circuit(), NOW
    for operation in operations:
        before, transition, granted = circuit, None, None
        match operation:
            case ("wait", int(step)):
                now += step
            case ("admit", str(permit), int(lease)):
                circuit, granted, transition = machine.admit(circuit, permit, lease, policy, now)
            case ("record", str(worker), int(successes), bool(failure), str(permit), int(off)):
                outcome = Outcome(circuit.epoch + off, worker, successes, failure, permit)
                circuit, transition = machine.record(circuit, outcome, policy, now, jitter)
            case ("order", Action() as action, int(ttl_ms)):
                circuit, transition = machine.obey(circuit, action, "somebody said so", ttl_ms, now)
            case _:
                raise AssertionError(operation)
        assert circuit.epoch - before.epoch in (0, 1), "the epoch never falls and rises step by step"
        if circuit.state is not before.state:
            assert circuit.state in LEGAL[before.state]
            assert transition is not None
            assert (transition.old, transition.new) == (before.state, circuit.state)
            assert circuit.epoch == before.epoch + 1
            assert transition.reason
        else:
            assert transition is None
        live = [name for name, expiry in circuit.permits if expiry > now]
        assert len(live) <= policy.half_open_permits
        assert circuit.state is State.HALF_OPEN or not circuit.permits
        if granted is not None and circuit.state is not State.HALF_OPEN:
            assert granted == (circuit.state not in (State.OPEN, State.FORCED_OPEN)), "only these two let nothing pass"
        seen = circuit.ring.total()
        assert min(seen.successes, seen.failures, seen.slow, seen.limited) >= 0
        assert circuit.state in (State.CLOSED, State.METRICS_ONLY) or seen == Tally()
