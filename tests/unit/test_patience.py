"""How much longer a retry may take: its header, Celery's limits, and what code that asks is told."""

from __future__ import annotations

import pytest

from resilience import current_patience
from resilience.recovery.patience import RECOVERY_HEADER, Tried, longer_limits, tried_by


def _headers(factor: float) -> dict[str, object]:
    return {RECOVERY_HEADER: Tried("longer_timeout", "timeout_error", factor).header(), "mine": 1}


def test_what_is_written_into_a_message_is_read_from_it() -> None:
    assert tried_by(_headers(2.25)) == Tried("longer_timeout", "timeout_error", 2.25)


@pytest.mark.parametrize(
    "value",
    [None, "retry", 5, [], ["retry"], ["retry", "connection_error", "x"], ["retry", "no such category", 1.0],
     ["rm -rf", "connection_error", 1.0], ["retry", "connection_error", 1000.0], ["retry", "connection_error", 0.1],
     ["retry", "connection_error", float("nan")], ["retry", "connection_error", 10**400], [["retry"], {}, 1.0]],
)  # fmt: skip
def test_what_none_of_us_wrote_says_nothing(value: object) -> None:
    assert tried_by({RECOVERY_HEADER: value}) is None
    assert tried_by({}) is None
    assert tried_by(None) is None


def test_outside_a_task_there_is_no_more_time_than_usual() -> None:
    assert current_patience() == 1.0


def test_limits_grow_from_those_of_the_task_where_the_message_carries_none() -> None:
    assert longer_limits(None, (20, 10), None, 1.5) == {"time_limit": 30.0, "soft_time_limit": 15.0}
    assert longer_limits([None, None], (20, None), {}, 1.5) == {"time_limit": 30.0}
    assert longer_limits(None, (None, None), None, 3.0) == {}


def test_limits_grow_from_the_usual_ones_and_not_from_those_that_grew_before() -> None:
    assert longer_limits([30.0, 15.0], (7, 7), _headers(1.5), 3.0) == {"time_limit": 60.0, "soft_time_limit": 30.0}
    assert longer_limits([30.0, 15.0], (7, 7), _headers(1.5), 1.0) == {"time_limit": 20.0, "soft_time_limit": 10.0}
    assert longer_limits([40, None], (7, 7), {}, 1.5) == {"time_limit": 60.0, "soft_time_limit": 10.5}
