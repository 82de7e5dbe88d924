"""Times and circuits in the words that people type and read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.breaker.machine import FORCED as FORCED_STATES
from resilience.breaker.machine import State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.snapshot import snapshot_of
from resilience.breaker.words import FORCED, MEANING, clock, counted, duration, next_of, seconds_of, what_is_true

NOW_MS = 1_800_000_000_000
NOW_S = NOW_MS / 1000


def snapshot(**fields: Any) -> dict[str, Any]:
    return snapshot_of({name: str(value) for name, value in fields.items()}, NOW_MS, BreakerPolicy())


def test_every_state_has_a_meaning_and_the_forced_ones_are_known() -> None:
    assert MEANING.keys() == {state.value for state in State}
    assert {state.value for state in FORCED_STATES} == FORCED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("10m", 600), ("2h", 7_200), ("1d", 86_400), ("1.5h", 5_400), (" 1 m ", 60)],
)  # fmt: skip
def test_a_length_of_time_is_read_as_people_type_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0.0s", "-5m", "10x", "m", "1e9", "nan", "inf", "٣m", "1h30m", "9" * 40, "5m\x1b[31m", "+5"]
)
def test_what_is_no_length_of_time_is_refused_in_one_short_sentence(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a length of time: seconds above 0, or 30s, 10m, 2h, 1d are right"
    ) as no:
        seconds_of(text)
    assert len(str(no.value)) < 150
    assert str(no.value).isprintable()


@given(st.text(max_size=30))
def test_whatever_is_typed_is_a_time_above_zero_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert 0 < seconds_of(text) < float("inf")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_time_of_another_day_has_its_date() -> None:
    assert clock(NOW_S, NOW_S) == "08:00:00 UTC"
    assert clock(NOW_S + 86_400, NOW_S) == "2027-01-16 08:00:00 UTC"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": "open", "until": NOW_MS + 12_000}, "probe in 12 s"),
        ({"state": "open", "until": NOW_MS - 1}, "probe with the next call"),
        ({"state": "half_open", "held": 2, "passed": 1}, "2 under way, 1 passed"),
        ({"state": "forced_open", "until": NOW_MS + 600_000}, "ends in 10 min 0 s"),
        ({"state": "disabled", "until": NOW_MS - 1}, "ends with the next call"),
        ({"state": "metrics_only", "until": 0}, "until further notice"),
        ({"state": "closed", "until": NOW_MS + 5_000}, "all calls in 5 s"),
        ({"state": "closed"}, ""),
        ({"state": "of_a_newer_release"}, ""),
    ],
)
def test_what_a_circuit_waits_for(fields: dict[str, Any], words: str) -> None:
    assert str(next_of(snapshot(**fields))) == words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": "forced_open"}, "no call passes, until further notice"),
        (
            {"state": "forced_open", "until": NOW_MS + 600_000},
            "no call passes, until 08:10:00 UTC (in 10 min 0 s), then it is probed",
        ),
        (
            {"state": "disabled", "until": NOW_MS + 60_000},
            "every call passes and nothing is recorded, until 08:01:00 UTC (in 1 min 0 s), then it is closed",
        ),
        ({"state": "closed", "until": NOW_MS + 5_000}, "calls pass, all of them in 5 s"),
        ({"state": "of_a_newer_release"}, "a state of a newer release"),
    ],
)
def test_what_is_true_of_a_circuit_and_until_when(fields: dict[str, Any], words: str) -> None:
    assert what_is_true(snapshot(**fields), NOW_S) == words


def test_calls_are_told_by_how_they_ended_and_only_what_there_was() -> None:
    seen = {"calls": 10, "failures": 3, "failure_ratio": 0.3, "rate_limited": 2, "slow": 0}
    assert counted(seen) == "3 of 10 failed (30%), 2 rate-limited"
    assert counted({**seen, "rate_limited": 0, "slow": 4}) == "3 of 10 failed (30%), 4 slow"
    assert counted({"calls": 0}) == ""
