"""The delay before a retry: what each row of the matrix waits, and that a server's hint is never undercut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors.taxonomy import MATRIX, ErrorCategory, Strategy
from resilience.retry.backoff import CAP_S, delay_s

_RANDOM = st.floats(0, 1, exclude_max=True)


def _delays(category: ErrorCategory, count: int = 5) -> list[float]:
    return [delay_s(MATRIX[category], retries, None, lambda: 0.0) for retries in range(count)]


def test_exponential_backoff_is_1_2_4_8_16_seconds() -> None:
    assert _delays(ErrorCategory.CONNECTION) == [1, 2, 4, 8, 16]


def test_linear_backoff_is_1_2_3_seconds() -> None:
    assert _delays(ErrorCategory.HEALTH_CHECK, 3) == [1, 2, 3]


def test_immediate_retries_wait_0_100_200_ms() -> None:
    assert _delays(ErrorCategory.COMMUNICATION, 3) == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("category", [ErrorCategory.RESOURCE, ErrorCategory.PYTHON])
def test_a_row_without_growth_waits_nothing(category: ErrorCategory) -> None:
    assert _delays(category, 2) == [0, 0]


@given(st.sampled_from(list(ErrorCategory)), st.integers(0, 1_000_000), st.floats(0, 86_400), _RANDOM)
def test_a_hint_of_the_server_is_not_undercut_up_to_an_hour(
    category: ErrorCategory, retries: int, hint_s: float, number: float
) -> None:
    waits = delay_s(MATRIX[category], retries, hint_s, lambda: number)
    heeded = min(hint_s, 3600.0)
    assert heeded <= waits <= heeded * 1.1 + 1e-9


@given(st.sampled_from(list(ErrorCategory)), st.integers(0, 1_000_000), _RANDOM)
def test_no_backoff_is_negative_or_longer_than_the_cap_with_jitter(
    category: ErrorCategory, retries: int, number: float
) -> None:
    row = MATRIX[category]
    waits = delay_s(row, retries, None, lambda: number)
    assert waits >= 0
    assert row.strategy is Strategy.IMMEDIATE_RETRY or waits <= CAP_S * 1.25


@given(st.sampled_from(list(ErrorCategory)), st.integers(0, 100), _RANDOM)
def test_later_retries_never_wait_less(category: ErrorCategory, retries: int, number: float) -> None:
    row = MATRIX[category]
    assert delay_s(row, retries, None, lambda: number) <= delay_s(row, retries + 1, None, lambda: number)
