"""A circuit's states as pure functions: how long it stays open, what half-open lets pass, how it closes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker import machine
from resilience.breaker.machine import LEGAL, Action, Circuit, Outcome, State, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import Ring, Tally
from tests.unit.circuits import NOW, POLICY, fail, half_open, opened, probe, succeed, told

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


# -- the ramp ------------------------------------------------------------------------------------------------------


def closed_by_probes(opens: int = 1, policy: BreakerPolicy = POLICY) -> Circuit:
    circuit = replace(half_open("a", "b", "c"), opens=opens)
    for name in ("a", "b", "c"):
        circuit = told(circuit, Outcome(circuit.epoch, "w1", 1, permit=name), policy)
    assert circuit.state is State.CLOSED
    return circuit


def test_a_circuit_that_probes_closed_ramps_up_and_one_that_an_operator_closed_does_not() -> None:
    assert closed_by_probes().until_ms == NOW + 10_000
    assert machine.obey(opened(), Action.RESET, "by ann", 0, NOW)[0].until_ms == 0


def test_a_ramp_may_be_turned_off() -> None:
    assert closed_by_probes(policy=BreakerPolicy(ramp_s=0)).until_ms == NOW


def test_the_machine_admits_all_during_the_ramp_the_share_is_the_process_s_business() -> None:
    circuit = closed_by_probes()
    assert machine.admit(circuit, "p", 1000, POLICY, NOW) == (circuit, True, None)


@pytest.mark.parametrize(("when_ms", "seconds", "opens"), [(0, 240, 3), (9_999, 240, 3), (10_000, 60, 1)])
def test_reopening_during_the_ramp_doubles_the_open_time_and_after_it_starts_anew(
    when_ms: int, seconds: int, opens: int
) -> None:
    """What opens again so soon has not recovered; what held for a whole ramp has."""
    now = NOW + when_ms
    circuit = fail(closed_by_probes(opens=2), now_ms=now, times=POLICY.consecutive_failures)
    assert (circuit.state, circuit.opens, circuit.until_ms - now) == (State.OPEN, opens, seconds * 1000)


def test_results_count_during_the_ramp_as_ever() -> None:
    circuit = succeed(closed_by_probes(), 3)
    assert circuit.ring.total() == Tally(3)


# -- a clock that is set back --------------------------------------------------------------------------------------


@given(
    st.sampled_from(
        [opened(), half_open("a"), closed_by_probes(), machine.obey(Circuit(), Action.DISABLE, "by ann", 9_000, NOW)[0]]
    ),
    st.integers(1, NOW),
    st.integers(0, 4_000),
)
def test_a_state_lasts_as_long_as_ever_and_permits_end(circuit: Circuit, back_ms: int, age_ms: int) -> None:
    circuit = replace(circuit, changed_ms=NOW)
    begun = machine.begun_by(circuit, NOW + age_ms - back_ms)
    if back_ms <= age_ms:
        assert begun == circuit
        return
    lasts_ms = circuit.until_ms - NOW if circuit.until_ms else 0
    assert (begun.until_ms - begun.changed_ms if begun.until_ms else 0) == lasts_ms
    assert (begun.changed_ms, begun.permits) == (NOW + age_ms - back_ms, ())


# -- whatever happens ----------------------------------------------------------------------------------------------

_OPERATIONS = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abcdef"), st.integers(1, 5_000)),
    st.tuples(st.just("record"), st.sampled_from(["w1", "w2", "w3"]), st.integers(0, 4), st.booleans(),
              st.sampled_from(["", "a", "b", "c"]), st.integers(-1, 1)),
    st.tuples(st.just("order"), st.sampled_from(Action), st.sampled_from([0, 1, 500, 4_000])),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 250, 1_000, 2_000, 5_000, 60_000, -1, -60_000, -60_000])),
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
