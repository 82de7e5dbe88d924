"""A circuit's policy and its name: what is accepted, and what a refusal says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from resilience.breaker.policy import BreakerPolicy, check_name, whole_ms


@pytest.mark.parametrize("name", ["openai", "tasks.chat", "a@fallback", "host:443/path", "x" * 200, "A_b-c+d"])
def test_a_usable_name_comes_back_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "two words", "line\nbreak", "ünicode", "x" * 201, "a|b", "tab\t", None, 7, b"bytes"]
)
def test_an_unusable_name_is_refused_with_the_rule(name: object) -> None:
    with pytest.raises(ValueError, match=r"^circuit name .* is not usable: 1 to 200 letters, digits or ") as refusal:
        check_name(name)
    assert len(str(refusal.value)) < 200


def test_an_open_time_above_its_cap_is_contradictory() -> None:
    with pytest.raises(ValidationError, match="open_max_s 5 is below open_s 60: it must be at least that"):
        BreakerPolicy(open_max_s=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0}, {"failure_ratio": 0}, {"failure_ratio": 1.01}, {"failure_ratio": float("nan")},
        {"window_s": 0}, {"window_s": float("inf")}, {"minimum_calls": 0}, {"open_s": 0}, {"jitter": -0.1},
        {"half_open_permits": 0}, {"success_threshold": 0}, {"permit_lease_s": 0}, {"open_seconds": 3},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BreakerPolicy.model_validate(wrong)


def test_a_policy_cannot_be_changed_behind_a_circuits_back() -> None:
    with pytest.raises(ValidationError):
        BreakerPolicy().open_s = 3.0  # type: ignore[misc]


def test_the_shortest_times_are_a_millisecond() -> None:
    policy = BreakerPolicy(open_s=1e-9, open_max_s=1e-9)
    assert policy.open_for_ms(1, 0.0) == 1


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.29, 290), (1.001, 1001), (4.35, 4350), (0.0004, 1), (86_400, 86_400_000)]
)
def test_seconds_become_the_nearest_millisecond(seconds: float, ms: int) -> None:
    assert whole_ms(seconds) == ms
