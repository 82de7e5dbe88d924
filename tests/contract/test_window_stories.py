"""The window on both sides: what is forgotten when time passes, leaps, goes back, or callers differ in its length."""

from __future__ import annotations

import pytest

from resilience.breaker.machine import Action, Outcome
from resilience.breaker.window import BUCKETS
from tests.contract.conftest import NOW
from tests.contract.pair import KINDS, PATIENT, MakePair


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start_ms", [0, NOW])
def test_a_bucket_is_forgotten_when_the_window_has_passed_and_not_before(
    pair: MakePair, kind: str, start_ms: int
) -> None:
    both = pair(PATIENT, start_ms)
    for _ in range(BUCKETS):
        both.record(KINDS[kind])
        both.now += 1_000
    assert both.total.calls == BUCKETS
    for left in range(BUCKETS, 0, -1):
        both.record(Outcome(1, "w1"))
        assert both.total.calls == left - 1
        both.now += 1_000


@pytest.mark.parametrize("steps", [2, 3, 11, 12, 13, 24, 1_000_000])
def test_time_that_leaps_forgets_what_it_leapt_over(pair: MakePair, steps: int) -> None:
    both = pair(PATIENT)
    for _ in range(BUCKETS):
        both.record(Outcome(1, "w1", 7, failure=True, slow=2, slow_failure=True))
        both.now += 1_000
    both.now += (steps - 1) * 1_000
    both.record(Outcome(1, "w1", 1))
    assert both.total.failures == max(0, BUCKETS - steps)


@pytest.mark.parametrize(("back", "kept"), [(1, True), (11, True), (12, True), (13, False)])
def test_time_that_goes_back_a_little_keeps_the_window_and_a_lot_starts_it_anew(
    pair: MakePair, back: int, kept: bool
) -> None:
    both = pair(PATIENT)
    both.record(Outcome(1, "w1", 5))
    both.now -= back * 1_000
    both.record(Outcome(1, "w1", 1))
    assert both.total.successes == (6 if kept else 1)


@pytest.mark.parametrize("window_s", [0.1, 0.103, 7.001, 86_400])
def test_windows_of_any_length_have_buckets_of_the_same_numbers(pair: MakePair, window_s: float) -> None:
    both = pair(PATIENT.model_copy(update={"window_s": window_s}))
    for step in (0, 7, 8, 9, 10, 500, 83_000, 7_200_000):
        both.now += step
        both.record(Outcome(1, "w1", 3, failure=True))


@pytest.mark.parametrize("window_s", [0.1, 6, 11.999, 12.5, 24, 300, 86_400])
def test_callers_with_two_windows_in_turns_count_together(pair: MakePair, window_s: float) -> None:
    both = pair(PATIENT)
    other = PATIENT.model_copy(update={"window_s": window_s})
    for step in (0, 1, 999, 1, 3_000, 11_000, 400, 20_000, 7, -1, -2_000, 500_000, 3_000, 90_000_000, 1, -600_000, 0):
        both.now += step
        for both.policy in (PATIENT, other, other, PATIENT):
            both.record(Outcome(1, "w1", 3, failure=True, slow=1))
        assert both.total.calls >= 16


@pytest.mark.parametrize("window_s", [6, 18])
def test_a_full_window_moves_into_another_width_at_every_moment(pair: MakePair, window_s: int) -> None:
    """Every edge between keeping and forgetting, where buckets of a second become others, is met once."""
    both = pair(PATIENT)
    other = PATIENT.model_copy(update={"window_s": window_s})
    for half_seconds in range(2 * max(window_s, 12) + 2):
        both.order(Action.RESET)
        both.policy, both.now = PATIENT, NOW
        for number in range(BUCKETS):
            both.record(Outcome(both.circuit.epoch, "w1", 1 + number, failure=True, slow=1))
            both.now += 1_000
        both.policy, both.now = other, both.now - 1_000 + half_seconds * 500
        both.record(Outcome(both.circuit.epoch, "w1", 100))


@pytest.mark.parametrize("offset_s", [0, 11, 12, 13, 23, 24])
def test_a_wide_bucket_that_is_still_being_filled_is_not_lost_on_a_caller_with_narrow_ones(
    pair: MakePair, offset_s: int
) -> None:
    wide = PATIENT.model_copy(update={"window_s": 300})
    both = pair(wide, NOW // 25_000 * 25_000 + offset_s * 1_000)
    both.record(Outcome(1, "w1", 5))
    both.policy = PATIENT
    both.record(Outcome(1, "w1", 1))
    assert both.total.successes == 6


def test_another_kind_of_window_starts_anew_and_leaves_nothing_behind(pair: MakePair) -> None:
    both = pair(PATIENT)
    counted = PATIENT.model_copy(update={"window_calls": 5, "minimum_calls": 5})
    for policy in (PATIENT, counted, counted, PATIENT):
        both.policy = policy
        both.record(Outcome(1, "w1", 4, failure=True, slow=2))
        assert both.total.calls == 5
    assert both.circuit.calls == ""
