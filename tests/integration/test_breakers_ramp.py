"""After probes closed a circuit its traffic grows from a trickle to all; who is too few to stampede passes anyway."""

from __future__ import annotations

import time

import pytest

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.testing import until
from signals.events import Result
from tests.integration.breaker_kit import MakeBreakers, fail, refused

RAMP_S = 2.0
RAMPING = BreakerPolicy(open_s=0.5, open_max_s=60, jitter=0, success_threshold=1, ramp_s=RAMP_S)
LONG_RAMP = RAMPING.model_copy(update={"ramp_s": 3600.0})


def begin_ramp(breakers: Breakers) -> None:
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    breakers.call("a", lambda: None)
    assert breakers.snapshot("a")["ramp_s"] > 0


def admitted(breakers: Breakers) -> bool:
    try:
        breakers.admit("a").settle(Result.NOTHING)
    except CircuitOpenError:
        return False
    return True


def test_the_share_that_is_admitted_grows_with_time_to_all(make: MakeBreakers) -> None:
    breakers = make(policy=RAMPING)
    begin_ramp(breakers)
    began = time.monotonic()
    quarters: dict[int, list[bool]] = {quarter: [] for quarter in range(4)}
    while (ran_s := time.monotonic() - began) < RAMP_S:
        quarters[int(4 * ran_s / RAMP_S)].append(admitted(breakers))
    first, second, third, last = (sum(seen) / len(seen) for seen in quarters.values())
    assert first < 0.4
    assert first < second < third < last
    assert last > 0.6
    until(lambda: breakers.flows("a"), within_s=2)
    assert all(admitted(breakers) for _ in range(1000))


def test_a_flood_at_the_beginning_is_held_back_and_told_how_long_it_ramps(make: MakeBreakers) -> None:
    breakers = make(policy=LONG_RAMP)
    begin_ramp(breakers)
    assert sum(admitted(breakers) for _ in range(200)) <= 3 + 5, "three a second, and of the others nearly none"
    with pytest.raises(CircuitOpenError) as refusal:
        _ = [breakers.admit("a") for _ in range(50)]
    assert refusal.value.state == "ramping"
    assert refusal.value.retry_after_s == pytest.approx(3600, abs=10)
    assert str(refusal.value).startswith("circuit a is ramping: it closed a moment ago and lets in a growing share")


def test_a_trickle_passes_the_ramp_undisturbed(make: MakeBreakers) -> None:
    """A call every 0.4 s, fewer than three a second: it stampedes nobody."""
    breakers = make(policy=LONG_RAMP)
    begin_ramp(breakers)
    time.sleep(1.05)  # the passes of the second in which it closed
    for _ in range(5):
        assert admitted(breakers)
        time.sleep(0.4)  # it is the pace that is tested


def test_another_process_ramps_too_and_who_routes_asks_for_the_ramp_or_not(make: MakeBreakers) -> None:
    breakers, other = make(policy=LONG_RAMP), make(policy=LONG_RAMP)
    assert not refused(other)
    begin_ramp(breakers)
    until(lambda: other.may_pass("a") and not other.flows("a"), within_s=2, what="it heard of the ramp")
    assert sum(admitted(other) for _ in range(200)) <= 3 + 5
    assert all(other.may_pass("a") for _ in range(200)), "a publisher does not refuse what a worker will slow down"
    assert not all(other.may_pass("a", ramp=True) for _ in range(200))
    assert all(other.admit("a", ramp=False) for _ in range(200))


def test_reopening_during_the_ramp_lasts_twice_as_long(make: MakeBreakers) -> None:
    breakers = make(policy=LONG_RAMP)
    begin_ramp(breakers)
    fail(breakers)
    assert breakers.snapshot("a")["opens"] == 2
    assert 0.5 < breakers.snapshot("a")["probe_in_s"] <= 1.0


def test_an_operator_s_reset_ends_the_ramp(make: MakeBreakers) -> None:
    breakers = make(policy=LONG_RAMP)
    begin_ramp(breakers)
    breakers.reset("a", actor="ann", reason="it is well again")
    assert all(admitted(breakers) for _ in range(200))
