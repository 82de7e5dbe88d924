"""How bad an error is by now, how long its recovery may take, and that every row's retries can really be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import MATRIX, ErrorCategory, Row, Severity, Strategy, may_retry, severity_at, time_budget_s
from resilience.errors.severity import ORDER, worse
from resilience.errors.taxonomy import Growth

_EVERY_ROW = [pytest.param(row, id=category.value) for category, row in MATRIX.items()]

rows = st.builds(
    Row, st.sampled_from(Severity), st.sampled_from(Strategy), st.integers(0, 20), st.sampled_from(Growth),
    transient=st.booleans(), counts=st.booleans(),
)  # fmt: skip
attempts = st.integers(1, 10_000)


def retries_used(row: Row, all_workers_affected: bool = False, limit: int | None = None) -> int:
    """How many retries a task that always fails gets."""
    attempt = 1
    while may_retry(row, attempt, all_workers_affected, limit):
        attempt += 1
    return attempt - 1


# The table of DESIGN, section 3, typed in a second time.
_DESIGN = """
initialization_error | critical | circuit_break   | 3 | exponential | transient
connection_error     | major    | backoff_retry   | 5 | exponential | transient
communication_error  | major    | immediate_retry | 3 | linear      | transient
timeout_error        | major    | backoff_retry   | 2 | exponential | transient
resource_error       | critical | circuit_break   | 1 | none        | transient
health_check_error   | minor    | backoff_retry   | 3 | linear      | transient
session_error        | minor    | immediate_retry | 2 | none        | transient
python_error         | major    | failover        | 1 | none        | permanent
system_error         | critical | abandon         | 0 | none        | permanent
rate_limit           | minor    | backoff_retry   | 5 | exponential | transient
server_error         | major    | backoff_retry   | 3 | exponential | transient
auth_error           | critical | abandon         | 0 | none        | permanent
invalid_request      | minor    | abandon         | 0 | none        | permanent
not_found            | minor    | abandon         | 0 | none        | permanent
"""


def test_the_matrix_says_what_the_design_says() -> None:
    written = [
        " | ".join([
            f"{category.value:20}", f"{row.severity.value:8}", f"{row.strategy.value:15}", str(row.max_retries),
            f"{row.growth.value:11}", "transient" if row.transient else "permanent",
        ])
        for category, row in MATRIX.items()
    ]  # fmt: skip
    assert written == _DESIGN.strip().splitlines()
    assert len(Severity) == 4
    assert len(Strategy) == 5


def test_only_what_is_transient_counts_against_a_circuit() -> None:
    assert all(row.transient or not row.counts for row in MATRIX.values())


# -- severity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "attempt", "expected"),
    [
        (ErrorCategory.RATE_LIMIT, 1, Severity.MINOR),
        (ErrorCategory.RATE_LIMIT, 3, Severity.MINOR),
        (ErrorCategory.RATE_LIMIT, 4, Severity.MAJOR),
        (ErrorCategory.RATE_LIMIT, 99, Severity.MAJOR),
        (ErrorCategory.SERVER, 3, Severity.MAJOR),
        (ErrorCategory.SERVER, 4, Severity.CRITICAL),
        (ErrorCategory.RESOURCE, 4, Severity.CRITICAL),
    ],
)
def test_severity_rises_one_step_past_attempt_three(category: ErrorCategory, attempt: int, expected: Severity) -> None:
    assert severity_at(MATRIX[category], attempt) is expected


@given(rows, attempts)
def test_an_error_of_all_workers_is_critical(row: Row, attempt: int) -> None:
    assert severity_at(row, attempt, all_workers_affected=True) is Severity.CRITICAL


@given(rows, attempts, attempts)
def test_severity_never_falls_with_the_attempts_and_rises_by_one_step_at_most(row: Row, one: int, other: int) -> None:
    earlier, later = (ORDER.index(severity_at(row, attempt)) for attempt in sorted((one, other)))
    assert ORDER.index(row.severity) <= earlier <= later <= ORDER.index(row.severity) + 1


@given(st.sampled_from(Severity), st.sampled_from(Severity))
def test_the_worse_of_two_is_one_of_them_and_no_better_than_either(one: Severity, other: Severity) -> None:
    assert ORDER.index(worse(one, other)) == max(ORDER.index(one), ORDER.index(other))


# -- time budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "budget_s"),
    [(ErrorCategory.RESOURCE, 5.0), (ErrorCategory.SERVER, 30.0), (ErrorCategory.SESSION, 60.0)],
)
def test_a_recovery_has_its_time_by_the_severity_of_the_row(category: ErrorCategory, budget_s: float) -> None:
    assert time_budget_s(MATRIX[category]) == budget_s
    assert time_budget_s(MATRIX[category], user_facing=True) == budget_s / 2


# -- retries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("all_workers_affected", [False, True])
@pytest.mark.parametrize("row", _EVERY_ROW)
def test_every_rows_maximum_is_reachable(row: Row, all_workers_affected: bool) -> None:
    assert retries_used(row, all_workers_affected) == row.max_retries


def test_severity_that_rose_with_the_attempts_takes_no_retry_away() -> None:
    row = MATRIX[ErrorCategory.CONNECTION]
    assert severity_at(row, 5) is Severity.CRITICAL
    assert may_retry(row, 5)
    assert not may_retry(row, 6)


@pytest.mark.parametrize(
    ("category", "all_workers_affected", "used"),
    [
        (ErrorCategory.RESOURCE, False, 2),  # critical, its row allows 1
        (ErrorCategory.INITIALIZATION, False, 3),  # critical, but its row allows more than 2
        (ErrorCategory.TIMEOUT, False, 10),  # major
        (ErrorCategory.TIMEOUT, True, 2),
        (ErrorCategory.CONNECTION, True, 5),  # its row allows more than 2
    ],
)
def test_a_generous_caller_does_not_prolong_what_is_critical(
    category: ErrorCategory, all_workers_affected: bool, used: int
) -> None:
    assert retries_used(MATRIX[category], all_workers_affected, limit=10) == used


@given(rows, st.booleans(), st.integers(0, 50))
def test_a_callers_limit_is_never_exceeded(row: Row, all_workers_affected: bool, limit: int) -> None:
    assert retries_used(row, all_workers_affected, limit) <= limit


@given(rows, st.booleans(), st.none() | st.integers(0, 50), attempts)
def test_once_given_up_an_error_stays_given_up(row: Row, everywhere: bool, limit: int | None, attempt: int) -> None:
    assert may_retry(row, attempt, everywhere, limit) or not may_retry(row, attempt + 1, everywhere, limit)
