"""What an operator may say to a circuit, how a forced state ends, and the table of legal transitions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilience.breaker import machine
from resilience.breaker.machine import FORCED, FORCES, LEGAL, Action, Circuit, Outcome, State, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import Ring, Tally
from tests.unit.circuits import NOW, POLICY, fail, half_open, opened

EVERY_STATE = [
    Circuit(), opened(3), half_open("a"),
    *(machine.obey(Circuit(), action, "said", 0, NOW)[0] for action in FORCES),
]  # fmt: skip
by_state = pytest.mark.parametrize("circuit", EVERY_STATE, ids=[circuit.state.value for circuit in EVERY_STATE])


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


@by_state
@pytest.mark.parametrize(("action", "state"), [*FORCES.items(), (Action.RESET, State.CLOSED)])
def test_an_operator_may_put_any_circuit_into_any_state_of_his(circuit: Circuit, action: Action, state: State) -> None:
    moved, transition = machine.obey(circuit, action, "said", 0, NOW)
    assert (moved.state, moved.epoch, moved.until_ms) == (state, circuit.epoch + 1, 0)
    assert transition == (Transition(circuit.state, state, "said") if circuit.state is not state else None)


@pytest.mark.parametrize("action", FORCES)
def test_saying_it_again_begins_its_time_anew(action: Action) -> None:
    once, _ = machine.obey(Circuit(), action, "said", 1_000, NOW)
    again, transition = machine.obey(once, action, "said again", 1_000, NOW + 900)
    assert (again.until_ms, again.epoch, transition) == (NOW + 1_900, once.epoch + 1, None)


@by_state
def test_auto_ends_a_forced_state_and_says_nothing_to_the_others(circuit: Circuit) -> None:
    moved, transition = machine.obey(circuit, Action.AUTO, "said", 0, NOW)
    if circuit.state not in FORCED:
        assert (moved, transition) == (circuit, None)
        return
    state = State.HALF_OPEN if circuit.state is State.FORCED_OPEN else State.CLOSED
    assert (moved.state, moved.epoch, moved.until_ms, moved.opens) == (state, circuit.epoch + 1, 0, 0)
    assert transition == Transition(circuit.state, state, "said")


@pytest.mark.parametrize(
    ("action", "then"),
    [
        (Action.FORCE_OPEN, State.HALF_OPEN), (Action.DISABLE, State.CLOSED), (Action.METRICS_ONLY, State.CLOSED),
    ],
)  # fmt: skip
def test_a_forced_state_ends_with_its_time_at_the_next_call_or_outcome(action: Action, then: State) -> None:
    forced, _ = machine.obey(Circuit(), action, "said", 1_000, NOW)
    before_its_end, at_its_end = NOW + 999, NOW + 1_000

    early, granted, transition = machine.admit(forced, "p", 500, POLICY, before_its_end)
    assert (early, granted, transition) == (forced, action is not Action.FORCE_OPEN, None)

    change = Transition(forced.state, then, f"{forced.state.value} time is over")
    admitted, granted, transition = machine.admit(forced, "p", 500, POLICY, at_its_end)
    assert (admitted.state, admitted.epoch, granted, transition) == (then, forced.epoch + 1, True, change)
    assert admitted.permits == ((("p", at_its_end + 500),) if then is State.HALF_OPEN else ())

    outcome = Outcome(forced.epoch, "w1", failure=True)
    recorded, transition = machine.record(forced, outcome, POLICY, at_its_end, 0.0)
    assert (recorded.state, transition) == (then, change)
    assert recorded.ring.total() == Tally(), "it was admitted under another epoch"


@pytest.mark.parametrize("action", FORCES)
def test_a_forced_state_without_a_time_lasts(action: Action) -> None:
    forced, _ = machine.obey(Circuit(), action, "said", 0, NOW)
    year_later = NOW + 365 * 86_400_000
    kept, _, transition = machine.admit(forced, "p", 1, POLICY, year_later)
    assert (kept, transition) == (forced, None)


def test_disabled_records_nothing_and_metrics_only_records_and_never_opens() -> None:
    disabled, _ = machine.obey(Circuit(), Action.DISABLE, "said", 0, NOW)
    assert fail(disabled, times=100) == disabled
    watched, _ = machine.obey(Circuit(), Action.METRICS_ONLY, "said", 0, NOW)
    watched = fail(watched, times=100)
    assert (watched.state, watched.ring.total().failures, watched.streak) == (State.METRICS_ONLY, 100, 100)
    closed, _ = machine.obey(watched, Action.AUTO, "said", 0, NOW)
    assert (closed.ring, closed.streak) == (Ring(), 0), "what it saw does not open it afterwards"


def test_forcing_keeps_how_often_it_opened_until_it_recovers() -> None:
    forced, _ = machine.obey(opened(3), Action.FORCE_OPEN, "said", 0, NOW)
    assert forced.opens == 3
    assert machine.obey(forced, Action.AUTO, "said", 0, NOW)[0].opens == 0


def test_auto_on_a_clock_that_was_set_back_leaves_the_state_begun_by_that_clock() -> None:
    """An order is an operation like any other: it too finds a state that was entered in the future."""
    circuit = opened()
    hour_earlier = NOW - 3_600_000
    circuit = replace(circuit, changed_ms=NOW)
    moved, transition = machine.obey(circuit, Action.AUTO, "said", 0, hour_earlier)
    assert (moved.changed_ms, moved.until_ms, transition) == (hour_earlier, circuit.until_ms - 3_600_000, None)


# -- the table of legal transitions --------------------------------------------------------------------------------


def test_every_state_is_in_the_table_and_none_leads_to_itself() -> None:
    assert set(LEGAL) == set(State)
    assert all(state not in ways for state, ways in LEGAL.items())
    assert set(FORCES.values()) == FORCED


def test_every_legal_transition_happens() -> None:
    """The other direction, that no other one does, is what the invariants below hold."""
    seen = set()
    for circuit in EVERY_STATE:
        later = max(NOW, circuit.until_ms)
        outcome = Outcome(circuit.epoch, "w1", failure=True, permit="a" if circuit.permits else "")
        for transition in (
            *(machine.obey(circuit, action, "said", 0, NOW)[1] for action in Action),
            machine.admit(circuit, "p", 1, POLICY, later)[2],
            machine.record(circuit, outcome, BreakerPolicy(consecutive_failures=1), NOW, 0.0)[1],
        ):
            if transition is not None:
                seen.add((transition.old, transition.new))
    assert seen == {(old, new) for old, ways in LEGAL.items() for new in ways}
