"""The deadline in a message: from the moment the task is due, read back whatever stands there."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.recovery.deadline import DEADLINE_HEADER, deadline_at, left_s


def test_it_counts_from_now_for_a_task_that_is_due_now() -> None:
    assert deadline_at(None, 1000.0, 30.0) == 1030.0


def test_it_counts_from_the_eta_for_a_task_that_is_due_later() -> None:
    assert deadline_at("1970-01-01T01:00:00+00:00", 1000.0, 30.0) == 3630.0
    assert deadline_at("1970-01-01T01:00:00Z", 1000.0, 30.0) == 3630.0


def test_an_eta_in_the_past_means_now() -> None:
    assert deadline_at("1970-01-01T00:00:01+00:00", 1000.0, 30.0) == 1030.0


def test_an_eta_that_is_no_date_means_now() -> None:
    assert deadline_at("tomorrow", 1000.0, 30.0) == 1030.0


def test_what_is_left_can_be_negative() -> None:
    assert left_s({DEADLINE_HEADER: 1030.0}, 1000.0) == 30.0
    assert left_s({DEADLINE_HEADER: 990}, 1000.0) == -10.0


@pytest.mark.parametrize("value", [None, "soon", True, [], {}, math.nan, math.inf, 10**400, b"1"])
def test_a_header_that_is_no_time_is_no_deadline(value: Any) -> None:
    assert left_s({DEADLINE_HEADER: value}, 1000.0) is None
    assert left_s({}, 1000.0) is None
    assert left_s(None, 1000.0) is None


@given(st.floats(0, 4e9), st.floats(0.001, 1e6))
def test_a_task_just_sent_has_its_whole_time(now_s: float, deadline_s: float) -> None:
    left = left_s({DEADLINE_HEADER: deadline_at(None, now_s, deadline_s)}, now_s)
    assert left is not None
    assert math.isclose(left, deadline_s, rel_tol=1e-3, abs_tol=1e-6)
