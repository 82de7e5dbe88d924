"""The end of a forced state, for who only reports outcomes and never asks to be admitted."""

from __future__ import annotations

import pytest

from resilience import Breakers
from resilience.testing import until
from tests.integration.breaker_kit import MakeBreakers, fail


def left_by_reports(breakers: Breakers, state: str) -> str:
    """The state after the one given, in which outcomes were reported all the time."""

    def left() -> str:
        breakers.record_failure("a")
        now = breakers.get_state("a")
        return now if now != state else ""

    return until(left, within_s=3, what=f"{state} ends")


@pytest.mark.parametrize(
    ("force", "state", "then"),
    [
        ("disable", "disabled", "closed"),
        ("metrics_only", "metrics_only", "closed"),
        ("force_open", "forced_open", "half_open"),
    ],
)
def test_a_forced_state_ends_with_its_time_although_nobody_asks_for_a_permit(
    make: MakeBreakers, force: str, state: str, then: str
) -> None:
    breakers = make()
    breakers.record_success("a")
    getattr(breakers, force)("a", actor="ann", reason="a drill", ttl_s=0.3)
    assert left_by_reports(breakers, state) == then


def test_after_its_end_failures_open_the_circuit_again(make: MakeBreakers) -> None:
    breakers = make()
    breakers.disable("a", actor="ann", reason="a drill", ttl_s=0.3)
    assert left_by_reports(breakers, "disabled") == "closed"
    fail(breakers)
    assert breakers.get_state("a") == "open"
