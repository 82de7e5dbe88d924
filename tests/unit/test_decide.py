"""Failure and context in, decision out: every row of the matrix, failover, the bounds that end every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors.classify import Classified, classify
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory, Strategy
from resilience.recovery.decide import MAX_HOPS, Abandon, FailOver, RetryAfter, Situation, decide


def _error(category: ErrorCategory, retry_after_s: float | None = None) -> Classified:
    return Classified(category, MATRIX[category], retry_after_s)


def _decide(
    category: ErrorCategory, retries: int = 0, *, max_retries: int | None = None, next_level: int | None = None,
    hops: int = 0, circuit_open: bool = False,
) -> RetryAfter | FailOver | Abandon:  # fmt: skip
    situation = Situation(_error(category), retries, max_retries, next_level, hops, circuit_open)
    return decide(situation, lambda: 0.0)


@pytest.mark.parametrize("category", [c for c in ErrorCategory if MATRIX[c].transient])
def test_every_retry_of_a_transient_row_is_reachable_and_no_more(category: ErrorCategory) -> None:
    limit = MATRIX[category].max_retries
    assert limit > 0
    for retries in range(limit):
        assert isinstance(_decide(category, retries), RetryAfter)
    assert _decide(category, limit) == Abandon(f"its {limit} retries are spent")


@pytest.mark.parametrize("category", [c for c in ErrorCategory if MATRIX[c].strategy is Strategy.ABANDON])
@pytest.mark.parametrize("next_level", [None, 1])
def test_an_abandoned_row_is_given_up_even_where_a_fallback_exists(
    category: ErrorCategory, next_level: int | None
) -> None:
    assert _decide(category, next_level=next_level) == Abandon("no retry would help")


def test_a_python_error_goes_to_the_fallback_and_without_one_fails() -> None:
    assert _decide(ErrorCategory.PYTHON, next_level=1) == FailOver(1)
    assert _decide(ErrorCategory.PYTHON) == Abandon("no retry would help")


def test_an_open_circuit_fails_over_at_once_without_spending_a_retry() -> None:
    error = classify(CircuitOpenError("openai", "open", 3.0))
    assert decide(Situation(error, 0, next_level=1, circuit_open=True), lambda: 0.0) == FailOver(1)


def test_an_open_circuit_without_a_fallback_is_tried_again_later() -> None:
    error = classify(CircuitOpenError("openai"))
    assert isinstance(decide(Situation(error, 0, circuit_open=True), lambda: 0.0), RetryAfter)


def test_a_transient_failure_is_repeated_before_it_fails_over() -> None:
    assert isinstance(_decide(ErrorCategory.SERVER, 2, next_level=1), RetryAfter)
    assert _decide(ErrorCategory.SERVER, 3, next_level=1) == FailOver(1)


def test_the_tasks_own_max_retries_wins_over_the_matrix() -> None:
    assert _decide(ErrorCategory.CONNECTION, 0, max_retries=0) == Abandon("it is not to be retried")
    assert isinstance(_decide(ErrorCategory.CONNECTION, 50, max_retries=51), RetryAfter)


def test_after_the_last_hop_nothing_fails_over() -> None:
    assert _decide(ErrorCategory.PYTHON, next_level=1, hops=MAX_HOPS - 1) == FailOver(1)
    assert isinstance(_decide(ErrorCategory.PYTHON, next_level=1, hops=MAX_HOPS), Abandon)
    assert isinstance(_decide(ErrorCategory.SERVER, 3, next_level=1, hops=MAX_HOPS), Abandon)


def test_the_servers_hint_sets_the_delay() -> None:
    situation = Situation(_error(ErrorCategory.RATE_LIMIT, 7.0), 0)
    assert decide(situation, lambda: 0.0) == RetryAfter(7.0)


def test_the_tasks_own_delay_wins_over_the_matrix_and_the_servers_hint() -> None:
    situation = Situation(_error(ErrorCategory.RATE_LIMIT, 7.0), 0, own_delay_s=4.0)
    assert decide(situation, lambda: 0.9) == RetryAfter(4.0)


def test_no_retry_begins_past_the_deadline() -> None:
    in_time = Situation(_error(ErrorCategory.SERVER), 1, left_s=2.5)
    assert decide(in_time, lambda: 0.0) == RetryAfter(2.0)
    late = replace(in_time, left_s=1.5)
    assert decide(late, lambda: 0.0) == Abandon("the next attempt, in 2.0 s, would begin after its deadline")
    assert decide(replace(late, next_level=1), lambda: 0.0) == FailOver(1), "the fallback begins at once, in time"
    over = replace(late, next_level=1, left_s=-0.1)
    assert decide(over, lambda: 0.0) == Abandon("its deadline is over")


def test_over_the_retry_budget_a_retry_becomes_a_failover_or_a_failure() -> None:
    over = Situation(_error(ErrorCategory.SERVER), 0, budget_spent=True)
    assert decide(over, lambda: 0.0) == Abandon("the retry budget of its circuit is spent")
    assert decide(replace(over, next_level=1), lambda: 0.0) == FailOver(1)


@given(st.lists(st.sampled_from(list(ErrorCategory)), min_size=1), st.integers(0, 4), st.booleans())
def test_every_path_ends(errors: list[ErrorCategory], levels: int, circuit_open: bool) -> None:
    """Whatever fails, in whatever order: retries per level and hops are bounded, so every task comes to an end."""
    level = retries = hops = 0
    for step in range(1000):
        category = errors[step % len(errors)]
        below = level + 1 if level < levels else None
        match _decide(category, retries, next_level=below, hops=hops, circuit_open=circuit_open):
            case RetryAfter():
                retries += 1
            case FailOver(level=target):
                assert target > level
                level, retries, hops = target, 0, hops + 1
            case Abandon():
                break
    assert step <= (levels + 1) * 6
    assert hops <= min(levels, MAX_HOPS)
