"""The window of a circuit's recent calls: a ring of buckets over time, or a row of the last so many calls."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker.machine import Circuit, Outcome, State, tally
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import BUCKETS, Ring, Tally, last_calls, width_of
from tests.unit.circuits import NOW, POLICY, fail, limit, succeed, told

# -- the last so many seconds --------------------------------------------------------------------------------------


def test_the_window_forgets_what_is_older_than_itself() -> None:
    circuit = succeed(Circuit(), 10)
    circuit = succeed(circuit, 1, now_ms=NOW + POLICY.window_ms)
    assert circuit.ring.total().successes == 1


def test_the_window_keeps_what_is_a_bucket_younger_than_itself() -> None:
    circuit = succeed(Circuit(), 10)
    circuit = succeed(circuit, 1, now_ms=NOW + POLICY.window_ms - POLICY.window_ms // BUCKETS)
    assert circuit.ring.total().successes == 11


def test_a_clock_that_goes_back_a_little_counts_into_the_newest_bucket() -> None:
    ring = Ring().add(500_000, 60_000, Tally(1)).add(490_000, 60_000, Tally(1))
    assert (ring.head, ring.buckets[100 % BUCKETS]) == (100, Tally(2))


def test_a_longer_window_in_the_policy_keeps_the_old_counts_and_forgets_them_in_time() -> None:
    short, long = BreakerPolicy(window_s=60), BreakerPolicy(window_s=600)
    circuit = fail(Circuit(), policy=short)
    circuit = fail(circuit, policy=long)
    assert circuit.ring.total().failures == 2
    circuit = fail(circuit, policy=long, now_ms=NOW + long.window_ms)
    assert circuit.ring.total().failures == 1


@given(
    st.lists(st.integers(100, 86_400_000), min_size=2, max_size=2), st.integers(0, 10**12),
    st.lists(st.floats(0, 2), min_size=1, max_size=60),
)  # fmt: skip
def test_callers_with_two_windows_in_turns_see_each_other_s_calls_of_this_moment(
    windows: list[int], start_ms: int, steps: list[float]
) -> None:
    """The calls of the shorter window's last bucket are there, whoever counts next: nobody is blind."""
    ring, now = Ring(), start_ms
    newest = width_of(min(windows))
    for step in steps:
        now += int(step * newest)
        for window_ms in windows:
            ring = ring.add(now, window_ms, Tally(1))
        assert ring.total().successes >= 2


@pytest.mark.parametrize(
    "windows", [(60_000, 30_000), (60_000, 31_000), (60_000, 59_988), (60_000, 600_000), (60_000, 3_600_000)]
)
def test_callers_with_two_windows_in_turns_forget_a_storm_that_is_over(windows: tuple[int, int]) -> None:
    """Within the longer window: if what is carried grew younger each time, a circuit could not see its recovery."""
    ring, now = Ring(), NOW
    for _ in range(1_000):
        ring = ring.add(now, windows[0], Tally(failures=1))
    end = now + max(windows)
    while now < end:
        now += 700
        for window_ms in windows:
            ring = ring.add(now, window_ms, Tally(1))
    assert ring.total().failures == 0


def test_two_windows_in_turns_open_a_circuit_that_fails() -> None:
    """As during a deployment that changes window_s; two thirds of 240 calls fail."""
    policies = [BreakerPolicy(window_s=seconds, consecutive_failures=100) for seconds in (60, 30)]
    circuit = Circuit()
    for number in range(240):
        outcome = Outcome(1, "w1", int(number % 3 == 0), number % 3 != 0)
        circuit = told(circuit, outcome, policies[number % 2], NOW + 12 * number)
    assert circuit.state is State.OPEN


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
        bucket = now // width_of(POLICY.window_ms)
        ring = ring.add(now, POLICY.window_ms, Tally(successes, failures))
        history.append((bucket, successes, failures))
        recent = [row for row in history if row[0] > bucket - BUCKETS]
        assert ring.total() == Tally(sum(row[1] for row in recent), sum(row[2] for row in recent))


def test_a_bucket_is_a_twelfth_of_the_window_and_never_empty() -> None:
    assert [Ring().add(ms, 60_000, Tally()).head for ms in (0, 4_999, 5_000, 60_000)] == [0, 0, 1, 12]
    assert [Ring().add(ms, 5, Tally()).head for ms in (0, 1, 7)] == [0, 1, 7], "a millisecond at least"


def test_a_slow_call_overlaps_the_others_and_is_counted_once_as_a_call() -> None:
    total = Tally(successes=3, failures=2, slow=4, limited=1) + Tally(1, 1, 1, 1)
    assert (total, total.calls) == (Tally(4, 3, 5, 2), 9)


@given(st.lists(st.integers(0, 10**9), min_size=4 * BUCKETS, max_size=4 * BUCKETS), st.integers(1, 10**7),
       st.integers(0, 10**12))  # fmt: skip
def test_a_ring_is_read_as_the_store_writes_it(numbers: list[int], width_ms: int, head: int) -> None:
    ring = Ring.read(" ".join(map(str, [width_ms, head, *numbers])))
    assert (ring.width_ms, ring.head) == (width_ms, head)
    assert [n for bucket in ring.buckets for n in vars(bucket).values()] == numbers


@pytest.mark.parametrize("text", ["", "7", "1 2 3", "x" * 500, "-1 " * 50, "0 " * 50, "1 " * 49, "1 " * 51])
def test_what_is_no_ring_is_read_as_an_empty_one(text: str) -> None:
    assert Ring.read(text) == Ring()


# -- the last so many calls ----------------------------------------------------------------------------------------

LAST_FIVE = BreakerPolicy(window_calls=5, minimum_calls=5, consecutive_failures=10_000, failure_ratio=1.0)


def test_the_last_calls_are_counted_however_old_they_are() -> None:
    circuit = fail(Circuit(), policy=LAST_FIVE, times=4)
    year_later = NOW + 365 * 86_400_000
    assert tally(circuit, LAST_FIVE) == Tally(failures=4)
    assert fail(circuit, policy=LAST_FIVE, now_ms=year_later).state.value == "open"


def test_the_window_holds_exactly_the_last_calls_oldest_out_first() -> None:
    circuit = fail(Circuit(), policy=LAST_FIVE, times=4)
    circuit = succeed(circuit, 1, policy=LAST_FIVE)
    assert tally(circuit, LAST_FIVE) == Tally(successes=1, failures=4)
    circuit = succeed(circuit, 2, policy=LAST_FIVE)
    assert tally(circuit, LAST_FIVE) == Tally(successes=3, failures=2)
    circuit = succeed(circuit, 400, policy=LAST_FIVE)
    assert tally(circuit, LAST_FIVE) == Tally(successes=5)


def test_of_calls_reported_together_the_slow_ones_are_the_oldest_and_the_failure_the_newest() -> None:
    outcome = Outcome(1, "w1", 3, failure=True, slow=1)
    assert outcome.letters() == "s..x"
    circuit = succeed(told(Circuit(), outcome, LAST_FIVE), 4, policy=LAST_FIVE)
    assert tally(circuit, LAST_FIVE) == Tally(successes=4, failures=1)


@pytest.mark.parametrize(
    ("outcome", "letters"),
    [
        (Outcome(1, "w"), ""), (Outcome(1, "w", 2), ".."), (Outcome(1, "w", 2, slow=2), "ss"),
        (Outcome(1, "w", failure=True), "x"), (Outcome(1, "w", failure=True, slow_failure=True), "X"),
        (Outcome(1, "w", failure=True, limited=True), "l"),
        (Outcome(1, "w", failure=True, limited=True, slow_failure=True), "L"),
    ],
)  # fmt: skip
def test_letters_and_tally_of_an_outcome_say_the_same(outcome: Outcome, letters: str) -> None:
    assert outcome.letters() == letters
    assert last_calls(letters) == outcome.tally()


def test_a_policy_that_changes_its_kind_of_window_starts_anew() -> None:
    circuit = fail(Circuit(), times=3)
    circuit = fail(circuit, policy=LAST_FIVE)
    assert (tally(circuit, LAST_FIVE), circuit.ring) == (Tally(failures=1), Ring())
    circuit = limit(circuit)
    assert (tally(circuit, POLICY), circuit.calls) == (Tally(limited=1), "")


_ENDINGS = st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans(), st.booleans(), st.booleans())


@given(st.integers(1, 12), st.lists(_ENDINGS, max_size=30))
def test_a_count_window_is_the_tally_of_the_last_calls_whatever_they_were(
    size: int, endings: Sequence[tuple[int, int, bool, bool, bool]]
) -> None:
    policy = BreakerPolicy(window_calls=size, minimum_calls=1)
    circuit, history = Circuit(state=State.METRICS_ONLY), ""
    for successes, slow, failure, limited, slow_failure in endings:
        outcome = Outcome(1, "w", successes, failure, "", min(slow, successes), limited, slow_failure)
        circuit = told(circuit, outcome, policy)
        history += outcome.letters()
        assert tally(circuit, policy) == last_calls(history[-size:])
        assert tally(circuit, policy).calls == min(size, len(history))
