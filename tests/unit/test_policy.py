"""A circuit's policy and its name: what is accepted, what a refusal says, and which errors count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from resilience.breaker.permit import as_result
from resilience.breaker.policy import BreakerPolicy, check_name, whole_ms
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory
from signals.events import Result


@pytest.mark.parametrize("name", ["openai", "tasks.chat", "a@fallback", "host:443/path", "x" * 200, "A_b-c+d"])
def test_a_usable_name_comes_back_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", "two words", "line\nbreak", "ünicode", "x" * 201, "x" * 10_240, "a|b", "tab\t", "{a}", "a}", "nul\0",
        "\x1b[31m", "del\x7f", "a\n", " a", None, 7, b"bytes",
    ],
)  # fmt: skip
def test_an_unusable_name_is_refused_with_the_rule(name: object) -> None:
    with pytest.raises(ValueError, match=r"^circuit name .* is not usable: 1 to 200 letters, digits or ") as refusal:
        check_name(name)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("contradiction", "sentence"),
    [
        ({"open_max_s": 5}, r"open_max_s 5 is below open_s 60: it must be at least that"),
        (
            {"window_calls": 19},
            r"window_calls 19 is below minimum_calls 20: no ratio would ever count; it must be at least that",
        ),
        (
            {"record": ["auth_error", "not_found"], "ignore": ["timeout_error", "not_found"]},
            r"not_found is in record and in ignore: it can be in one of them",
        ),
        (
            {"record": ["python_error"]},
            r"python_error is a mistake in code and says nothing about a dependency; where an exception does, "
            r"give it a category with a @rule",
        ),
        ({"record": ["typo_error"]}, r"record\.0\n  Input should be .*'timeout_error'"),
        ({"half_open_permits": 0}, r"half_open_permits\n  Input should be greater than or equal to 1"),
        ({"failure_ratio": 2}, r"failure_ratio\n  Input should be less than or equal to 1"),
        ({"open_seconds": 3}, r"open_seconds\n  Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_and_the_sentence_says_what_would_be_right(
    contradiction: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as refusal:
        BreakerPolicy.model_validate(contradiction)
    assert refusal.value.error_count() == 1


def test_a_count_window_that_just_holds_the_minimum_is_right() -> None:
    assert BreakerPolicy(window_calls=20, minimum_calls=20).window_calls == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0}, {"failure_ratio": 0}, {"failure_ratio": 1.01}, {"failure_ratio": float("nan")},
        {"window_s": 0}, {"window_s": float("inf")}, {"minimum_calls": 0}, {"open_s": 0}, {"jitter": -0.1},
        {"success_threshold": 0}, {"permit_lease_s": 0}, {"slow_call_s": 0}, {"slow_ratio": 0}, {"slow_ratio": 1.01},
        {"rate_limit_ratio": 0}, {"rate_limit_ratio": 2}, {"window_calls": 0}, {"window_calls": 1001}, {"ramp_s": -1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BreakerPolicy.model_validate(wrong)


def test_a_policy_cannot_be_changed_behind_a_circuits_back() -> None:
    with pytest.raises(ValidationError):
        BreakerPolicy().open_s = 3.0


def test_the_shortest_times_are_a_millisecond() -> None:
    policy = BreakerPolicy(open_s=1e-9, open_max_s=1e-9)
    assert policy.open_for_ms(1, 0.0) == 1


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.29, 290), (1.001, 1001), (4.35, 4350), (0.0004, 1), (86_400, 86_400_000)]
)
def test_seconds_become_the_nearest_millisecond(seconds: float, ms: int) -> None:
    assert whole_ms(seconds) == ms


# -- which errors count --------------------------------------------------------------------------------------------

_ERRORS: dict[ErrorCategory, Exception] = {
    ErrorCategory.TIMEOUT: TimeoutError(),
    ErrorCategory.CONNECTION: ConnectionRefusedError(),
    ErrorCategory.RATE_LIMIT: Exception("rate limit exceeded"),
    ErrorCategory.AUTH: Exception("invalid api key"),
    ErrorCategory.PYTHON: KeyError("x"),
}


def test_by_default_the_matrix_says_what_counts() -> None:
    policy = BreakerPolicy()
    assert {category: policy.counts(category, row) for category, row in MATRIX.items()} == {
        category: row.counts for category, row in MATRIX.items()
    }


@pytest.mark.parametrize("category", ErrorCategory)
def test_record_adds_a_category_and_ignore_takes_it_out_whatever_the_matrix_says(category: ErrorCategory) -> None:
    for counts in (True, False):
        row = replace(MATRIX[category], counts=counts)
        if category is not ErrorCategory.PYTHON:
            assert BreakerPolicy(record=frozenset({category})).counts(category, row)
        assert not BreakerPolicy(ignore=frozenset({category})).counts(category, row)


@pytest.mark.parametrize(
    ("category", "result"),
    [
        (ErrorCategory.TIMEOUT, Result.FAILURE), (ErrorCategory.CONNECTION, Result.FAILURE),
        (ErrorCategory.RATE_LIMIT, Result.LIMITED), (ErrorCategory.AUTH, Result.NOTHING),
        (ErrorCategory.PYTHON, Result.NOTHING),
    ],
)  # fmt: skip
def test_an_exception_counts_by_its_category(category: ErrorCategory, result: Result) -> None:
    error = _ERRORS[category]
    assert as_result(error) is result
    assert as_result(error, BreakerPolicy(ignore=frozenset({category}))) is Result.NOTHING


def test_a_recorded_category_counts_as_a_failure_here_and_nowhere_else() -> None:
    strict = BreakerPolicy(record=frozenset({ErrorCategory.AUTH}))
    assert as_result(_ERRORS[ErrorCategory.AUTH], strict) is Result.FAILURE
    assert as_result(_ERRORS[ErrorCategory.AUTH]) is Result.NOTHING


@pytest.mark.parametrize("ending", [CircuitOpenError("a"), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_a_refusal_and_an_interruption_never_count(ending: BaseException) -> None:
    everything = BreakerPolicy(record=frozenset(ErrorCategory) - {ErrorCategory.PYTHON})
    assert as_result(ending, everything) is Result.NOTHING


@pytest.mark.parametrize("result", Result)
def test_a_result_is_taken_at_its_word_and_no_ending_is_success(result: Result) -> None:
    assert as_result(result) is result
    assert as_result(None) is Result.SUCCESS


@pytest.mark.parametrize(("runtime_s", "slow"), [(0.999, False), (1.0, False), (1.001, True), (float("inf"), True)])
def test_a_call_is_slow_when_it_takes_longer_than_the_policy_says(runtime_s: float, slow: bool) -> None:
    assert BreakerPolicy(slow_call_s=1).is_slow(runtime_s) is slow
    assert not BreakerPolicy().is_slow(runtime_s)
