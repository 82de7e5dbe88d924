"""Waiting between attempts: every strategy's bounds and growth, tenacity's use of them, and the matrix's delays."""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import Retrying, stop_after_attempt, wait_fixed

from resilience import CircuitOpenError, backoff
from resilience.errors.taxonomy import MATRIX, ErrorCategory, Strategy
from resilience.retry.backoff import MATRIX_CAP_S, Backoff, checked, delay_s

_RANDOM = st.floats(0, 1, exclude_max=True)
_ATTEMPTS = st.one_of(st.integers(1, 40), st.sampled_from([1_000, 10_000, 1_000_000]))
_SECONDS = st.floats(0.001, 1_000)
_FACTORS = st.floats(1, 10)
_SHARES = st.floats(0, 1)

_GROWING: st.SearchStrategy[Any] = st.one_of(
    st.builds(backoff.linear, _SECONDS, st.none() | st.floats(0, 100), _SECONDS, _SHARES),
    st.builds(backoff.exponential, _SECONDS, _FACTORS, _SECONDS, _SHARES),
    st.builds(backoff.fibonacci, _SECONDS, _SECONDS, _SHARES),
    st.builds(backoff.full_jitter, _SECONDS, _FACTORS, _SECONDS),
)
"""The strategies whose waits grow with the attempt's number alone."""
_ALL: st.SearchStrategy[Any] = st.one_of(
    _GROWING,
    st.builds(lambda first_s, times: backoff.decorrelated_jitter(first_s, first_s * times), _SECONDS, st.floats(1, 99)),
    st.builds(backoff.custom, st.sampled_from([float, lambda n: 1e300 * n, lambda n: -n]), _SECONDS),
)
_DEFAULTS = [backoff.linear(), backoff.exponential(), backoff.fibonacci(), backoff.full_jitter(),
             backoff.decorrelated_jitter()]  # fmt: skip
_names = [type(strategy).__name__ for strategy in _DEFAULTS]


def _row(strategy: Backoff, count: int = 8, number: float = 0.0) -> list[float]:
    return [strategy.after(attempt, lambda: number) for attempt in range(1, count + 1)]


class Failing:
    """A function that always fails; `waits` are what tenacity slept between."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.waits: list[float] = []

    def run(self, wait: Any, attempts: int) -> list[float]:
        retrying = Retrying(wait=wait, stop=stop_after_attempt(attempts), sleep=self.waits.append, reraise=True)
        with pytest.raises(type(self.error)):
            retrying(self)
        return self.waits

    def __call__(self) -> None:
        raise self.error


class TooManyRequestsError(Exception):
    """What a client raises for a 429, told to come back."""

    def __init__(self, retry_after: str) -> None:
        super().__init__("429")
        self.headers = {"Retry-After": retry_after}
        self.status_code = 429


# -- every strategy ------------------------------------------------------------------------------------------------


@given(_ALL, _ATTEMPTS, st.floats(0, 1e6), _RANDOM)
def test_no_wait_is_negative_or_longer_than_the_cap(
    strategy: Any, attempt: int, previous_s: float, number: float
) -> None:
    assert 0 <= strategy.after(attempt, lambda: number, previous_s) <= strategy.cap_s


@given(_GROWING, _ATTEMPTS, _RANDOM)
def test_growing_waits_never_get_shorter(strategy: Any, attempt: int, number: float) -> None:
    assert strategy.after(attempt, lambda: number) <= strategy.after(attempt + 1, lambda: number)


@given(_ALL, _ATTEMPTS, _RANDOM, _RANDOM)
def test_a_larger_random_number_never_means_a_shorter_wait(
    strategy: Any, attempt: int, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert strategy.after(attempt, lambda: low) <= strategy.after(attempt, lambda: high)


@given(_GROWING.filter(lambda strategy: hasattr(strategy, "jitter")), _ATTEMPTS, _RANDOM)
def test_jitter_comes_on_top_up_to_its_share(strategy: Any, attempt: int, number: float) -> None:
    least = strategy.after(attempt, lambda: 0.0)
    assert least * (1 - 1e-9) <= strategy.after(attempt, lambda: number) <= least * (1 + strategy.jitter) * (1 + 1e-9)


@pytest.mark.parametrize("attempt", [1, 5, 10_000])
@pytest.mark.parametrize("strategy", _DEFAULTS, ids=_names)
def test_by_default_a_herd_spreads_over_the_whole_range_also_at_the_cap(strategy: Backoff, attempt: int) -> None:
    source = random.Random(7)
    waits = sorted(strategy.after(attempt, source.random, previous_s=1.0) for _ in range(1000))
    least, most = (strategy.after(attempt, lambda n=n: n, previous_s=1.0) for n in (0.0, 1.0))  # type: ignore[misc]
    assert most > least
    tenths = [int((wait - least) / (most - least) * 9.999) for wait in waits]
    counts = [tenths.count(tenth) for tenth in range(10)]
    assert min(counts) > 50, f"no tenth of the range stays empty: {counts}"
    assert statistics.mean(waits) == pytest.approx((least + most) / 2, rel=0.1)


@pytest.mark.parametrize("strategy", [backoff.linear, backoff.exponential, backoff.fibonacci])
def test_without_jitter_chance_has_no_say(strategy: Callable[..., Backoff]) -> None:
    plain = strategy(jitter=0.0)
    assert _row(plain, 20, 0.0) == _row(plain, 20, 0.999)


# -- each one's own row --------------------------------------------------------------------------------------------


def test_linear_adds_the_same_each_time() -> None:
    assert _row(backoff.linear(first_s=2, jitter=0), 6) == [2, 4, 6, 8, 10, 10]
    assert _row(backoff.linear(first_s=0, step_s=3, jitter=0), 5) == [0, 3, 6, 9, 10]


def test_exponential_multiplies() -> None:
    assert _row(backoff.exponential(jitter=0), 9) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert _row(backoff.exponential(first_s=1, factor=3, cap_s=100, jitter=0), 5) == [1, 3, 9, 27, 81]


def test_fibonacci_adds_the_last_two() -> None:
    assert _row(backoff.fibonacci(first_s=1, cap_s=20, jitter=0), 9) == [1, 1, 2, 3, 5, 8, 13, 20, 20]


def test_full_jitter_takes_anything_up_to_exponential_growth() -> None:
    assert _row(backoff.full_jitter(first_s=1), 6, number=0.0) == [0] * 6
    assert _row(backoff.full_jitter(first_s=1), 6, number=0.5) == [0.5, 1, 2, 4, 5, 5]


@given(_SECONDS, st.floats(1, 99), st.floats(0, 1e6), _RANDOM)
def test_decorrelated_jitter_lies_between_the_first_wait_and_three_times_the_last(
    first_s: float, times: float, previous_s: float, number: float
) -> None:
    strategy = backoff.decorrelated_jitter(first_s, first_s * times)
    waits = strategy.after(1, lambda: number, previous_s)
    assert min(first_s, strategy.cap_s) <= waits <= min(strategy.cap_s, 3 * max(first_s, previous_s)) * (1 + 1e-9)


def test_custom_asks_your_function_for_every_attempt() -> None:
    assert _row(backoff.custom(lambda attempt: attempt**2, cap_s=10), 5) == [1, 4, 9, 10, 10]


def test_a_server_hint_wins_and_is_not_undercut_up_to_its_cap() -> None:
    strategy = backoff.server_hint(backoff.exponential(jitter=0), cap_s=60)
    assert strategy.after(1, lambda: 0.0) == 0.1
    assert strategy.after(9, lambda: 0.0, hint_s=2.0) == 2.0
    assert strategy.after(1, lambda: 0.5, hint_s=2.0) == pytest.approx(2.1), "nor do all come back together"
    assert strategy.after(1, lambda: 0.0, hint_s=86_400) == 60


# -- under tenacity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [*_DEFAULTS, backoff.server_hint(), backoff.custom(float)], ids=repr)
def test_every_strategy_is_a_wait_of_tenacity(strategy: Backoff) -> None:
    waits = Failing(TimeoutError()).run(strategy, attempts=6)
    assert len(waits) == 5
    assert all(0 <= wait <= 10 for wait in waits)


def test_strategies_add_up_as_tenacitys_own_do() -> None:
    waits = Failing(TimeoutError()).run(backoff.linear(first_s=1, jitter=0) + wait_fixed(5), attempts=4)
    assert waits == [6, 7, 8]


def test_the_server_is_heeded_under_tenacity() -> None:
    [wait] = Failing(TooManyRequestsError("7")).run(backoff.server_hint(), attempts=2)
    assert 7 <= wait <= 7.7
    assert Failing(TooManyRequestsError("soon")).run(backoff.server_hint(wait_fixed(3)), attempts=2) == [3]


def test_a_circuit_is_no_server_whose_hint_would_be_waited_for() -> None:
    refusal = CircuitOpenError("a", "open", 50.0)
    wrapped = OSError("no payment")
    wrapped.__cause__ = refusal
    for error in (refusal, wrapped):
        [wait] = Failing(error).run(backoff.server_hint(), attempts=2)
        assert wait < 1


def test_decorrelated_jitter_remembers_per_call_although_threads_share_it() -> None:
    """Each call's waits lie within three times its own last wait: no other call's wait gets in between."""
    shared = backoff.decorrelated_jitter(first_s=0.1, cap_s=1e6)
    rows: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: rows.append(Failing(TimeoutError()).run(shared, attempts=40))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in rows:
        for last, wait in zip([0.1, *row], row, strict=False):
            assert 0.1 <= wait <= 3 * last
        assert max(row) > 1, "it grows"
    assert vars(shared) == {"first_s": 0.1, "cap_s": 1e6}


# -- wrong numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: backoff.linear(first_s=-1), "backoff.linear: first_s is -1, but seconds from 0 to 31536000 are right"),
        (lambda: backoff.exponential(cap_s=0), "backoff.exponential: cap_s is 0, but"),
        (lambda: backoff.fibonacci(first_s=float("nan")), "backoff.fibonacci: first_s is nan, but"),
        (lambda: backoff.full_jitter(cap_s=float("inf")), "backoff.full_jitter: cap_s is inf, but"),
        (lambda: backoff.linear(step_s="1"), "backoff.linear: step_s is '1', but"),
        (lambda: backoff.exponential(factor=0.5), "backoff.exponential: factor is 0.5, but 1 or more is right"),
        (lambda: backoff.exponential(jitter=2), "backoff.exponential: jitter is 2, but a share from 0 to 1 is right"),
        (lambda: backoff.decorrelated_jitter(9, 3), "backoff.decorrelated_jitter: first_s 9 is above cap_s 3: it must"),
        (lambda: backoff.server_hint(3), "backoff.server_hint: otherwise is 3, but a strategy is right, such as"),
        (lambda: backoff.custom(3), "backoff.custom: 3 cannot be called: give a function of the attempt's number"),
        (lambda: backoff.server_hint(wait_fixed(1)).after(1, lambda: 0), "needs tenacity's state: call it through"),
        (lambda: backoff.custom(lambda _: None).after(1, lambda: 0), "a backoff said to wait None, but a number of"),
    ],
)
def test_a_wrong_number_is_refused_in_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert sentence in str(caught.value)


@pytest.mark.parametrize("answer", ["1", None, float("nan")])
def test_what_is_no_number_is_no_wait(answer: object) -> None:
    with pytest.raises(ValueError, match="a backoff said to wait"):
        checked(answer)


# -- the matrix ----------------------------------------------------------------------------------------------------


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
def test_no_delay_is_negative_or_longer_than_a_minute_with_jitter(
    category: ErrorCategory, retries: int, number: float
) -> None:
    row = MATRIX[category]
    waits = delay_s(row, retries, None, lambda: number)
    assert 0 <= waits <= MATRIX_CAP_S * (1.0 if row.strategy is Strategy.IMMEDIATE_RETRY else 1.25)


@given(st.sampled_from(list(ErrorCategory)), st.integers(0, 100), _RANDOM)
def test_later_retries_never_wait_less(category: ErrorCategory, retries: int, number: float) -> None:
    row = MATRIX[category]
    assert delay_s(row, retries, None, lambda: number) <= delay_s(row, retries + 1, None, lambda: number)
