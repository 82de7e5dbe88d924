"""Failure and context in, decision out: every row of the matrix, failover, the bounds that end every path."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resilience.errors.classify import Classified, classify
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory, Strategy
from resilience.recovery.decide import (
    MAX_HOPS,
    Abandon,
    FailOver,
    Fate,
    Park,
    Quarantine,
    RetryAfter,
    Situation,
    decide,
)


def _error(category: ErrorCategory, retry_after_s: float | None = None) -> Classified:
    return Classified(category, MATRIX[category], retry_after_s)


def _fate(situation: Situation, drawn: float = 0.0) -> Fate:
    return decide(situation, lambda: drawn).fate


def _decide(
    category: ErrorCategory, retries: int = 0, *, max_retries: int | None = None, next_level: int | None = None,
    hops: int = 0, circuit_open: bool = False,
) -> Fate:  # fmt: skip
    return _fate(Situation(_error(category), retries, max_retries, next_level, hops, circuit_open))


@pytest.mark.parametrize("category", [c for c in ErrorCategory if MATRIX[c].transient])
def test_every_retry_of_a_transient_row_is_reachable_and_no_more(category: ErrorCategory) -> None:
    limit = MATRIX[category].max_retries
    assert limit > 0
    for retries in range(limit):
        assert isinstance(_decide(category, retries), RetryAfter)
    assert _decide(category, limit) == Quarantine(f"its {limit} retries are spent")


@pytest.mark.parametrize("category", [c for c in ErrorCategory if MATRIX[c].strategy is Strategy.ABANDON])
@pytest.mark.parametrize("next_level", [None, 1])
def test_an_abandoned_row_is_given_up_even_where_a_fallback_exists(
    category: ErrorCategory, next_level: int | None
) -> None:
    assert _decide(category, next_level=next_level) == Quarantine("no retry would help")


def test_a_python_error_goes_to_the_fallback_and_without_one_fails() -> None:
    assert _decide(ErrorCategory.PYTHON, next_level=1) == FailOver(1)
    assert _decide(ErrorCategory.PYTHON) == Abandon("no retry would help")


def test_an_open_circuit_fails_over_at_once_without_spending_a_retry() -> None:
    error = classify(CircuitOpenError("openai", "open", 3.0))
    assert _fate(Situation(error, 0, next_level=1, circuit_open=True)) == FailOver(1)


def test_an_open_circuit_without_a_fallback_is_tried_again_later() -> None:
    error = classify(CircuitOpenError("openai"))
    assert isinstance(_fate(Situation(error, 0, circuit_open=True)), RetryAfter)


def test_a_transient_failure_is_repeated_before_it_fails_over() -> None:
    assert isinstance(_decide(ErrorCategory.SERVER, 2, next_level=1), RetryAfter)
    assert _decide(ErrorCategory.SERVER, 3, next_level=1) == FailOver(1)


def test_the_tasks_own_max_retries_wins_over_the_matrix() -> None:
    assert _decide(ErrorCategory.CONNECTION, 0, max_retries=0) == Quarantine("it is not to be retried")
    assert isinstance(_decide(ErrorCategory.CONNECTION, 50, max_retries=51), RetryAfter)


def test_after_the_last_hop_nothing_fails_over() -> None:
    assert _decide(ErrorCategory.PYTHON, next_level=1, hops=MAX_HOPS - 1) == FailOver(1)
    assert isinstance(_decide(ErrorCategory.PYTHON, next_level=1, hops=MAX_HOPS), Quarantine)
    assert isinstance(_decide(ErrorCategory.SERVER, 3, next_level=1, hops=MAX_HOPS), Quarantine)


def test_the_servers_hint_sets_the_delay() -> None:
    situation = Situation(_error(ErrorCategory.RATE_LIMIT, 7.0), 0)
    assert _fate(situation) == RetryAfter(7.0)


def test_the_tasks_own_delay_wins_over_the_matrix_and_the_servers_hint() -> None:
    situation = Situation(_error(ErrorCategory.RATE_LIMIT, 7.0), 0, own_delay_s=4.0)
    assert _fate(situation, 0.9) == RetryAfter(4.0)


def test_no_retry_begins_past_the_deadline() -> None:
    in_time = Situation(_error(ErrorCategory.SERVER), 1, left_s=2.5)
    assert _fate(in_time) == RetryAfter(2.0)
    late = replace(in_time, left_s=1.5)
    assert _fate(late) == Quarantine("the next attempt, in 2.0 s, would begin after its deadline")
    assert _fate(replace(late, next_level=1)) == FailOver(1), "the fallback begins at once, in time"
    over = replace(late, next_level=1, left_s=-0.1)
    assert _fate(over) == Quarantine("its deadline is over")


def test_over_the_retry_budget_a_retry_becomes_a_failover_or_a_failure() -> None:
    over = Situation(_error(ErrorCategory.SERVER), 0, budget_spent=True)
    assert _fate(over) == Quarantine("the retry budget of its circuit is spent")
    assert _fate(replace(over, next_level=1)) == FailOver(1)


def test_an_open_circuit_without_a_healthy_level_parks_the_task_where_that_is_possible() -> None:
    refused = Situation(classify(CircuitOpenError("openai", "open", 3.0)), 5, circuit_open=True, may_park=True)
    assert _fate(refused) == Park()
    assert _fate(replace(refused, next_level=1)) == FailOver(1)
    assert _fate(replace(refused, next_level=1, hops=MAX_HOPS)) == Park()
    assert _fate(replace(refused, left_s=0.0)) == Quarantine("its deadline is over")
    assert _fate(replace(refused, circuit_open=False)) != Park()


def test_what_is_given_up_is_kept_as_the_setting_says() -> None:
    untried = Situation(_error(ErrorCategory.PYTHON), 0)
    assert _fate(untried) == Abandon("no retry would help")
    assert _fate(replace(untried, keeps="all")) == Quarantine("no retry would help")
    assert _fate(replace(untried, hops=1)) == Quarantine("no retry would help")
    assert _fate(replace(untried, spent=1)) == Quarantine("no retry would help")
    assert _fate(replace(untried, keeps="none", hops=1)) == Abandon("no retry would help")
    assert _fate(Situation(_error(ErrorCategory.AUTH), 0, keeps="none")) == Abandon("no retry would help")


def test_a_critical_error_is_given_up_past_attempt_2_whatever_the_task_allows_unless_its_row_allows_more() -> None:
    resource = Situation(_error(ErrorCategory.RESOURCE), 1, max_retries=50)
    assert isinstance(_fate(resource), RetryAfter)
    assert _fate(replace(resource, retries=2)) == Quarantine("it is critical, so attempt 3 was the last")
    everywhere = Situation(_error(ErrorCategory.TIMEOUT), 2, max_retries=50, all_workers_affected=True)
    assert _fate(everywhere) == Quarantine("all workers are affected, so attempt 3 was the last")
    assert isinstance(_fate(replace(everywhere, all_workers_affected=False)), RetryAfter)
    five = replace(everywhere, error=_error(ErrorCategory.CONNECTION))
    assert isinstance(_fate(replace(five, retries=4)), RetryAfter), "its row allows five"
    assert isinstance(_fate(replace(five, retries=5)), Quarantine)
