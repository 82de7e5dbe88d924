"""What circuits cost: round trips, counted by Redis itself. The watcher's poll, a GET twice a second, is left out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.breaker.pending import AT_ONCE
from resilience.testing import until
from tests.integration.breaker_kit import LONG, SHORT, MakeBreakers, fail, refused

_BACKGROUND = {"get", "hgetall", "time", "info", "client", "hello", "subscribe"}
"""What the watcher asks, what connecting costs it, and what counting itself costs."""
_SCRIPTS = {"evalsha", "eval", "script", "script|load", "script|exists"}
RAMPING = SHORT.model_copy(update={"success_threshold": 1, "ramp_s": 60.0})


class Used(Counter[str]):
    """Commands that Redis ran, by name; what a script runs inside is counted, too."""

    @property
    def round_trips(self) -> int:
        """Script calls; raises AssertionError if anything was asked beside them."""
        if not self["evalsha"]:
            assert not self, f"nothing but scripts reports and admits: {dict(self)}"
        assert all(count == 0 for name, count in self.items() if name in _SCRIPTS - {"evalsha"})
        return self["evalsha"]


@contextmanager
def commands(url: str) -> Iterator[Used]:
    """What Redis was asked inside the block."""
    used = Used()
    with redis.Redis.from_url(url) as client:

        def seen() -> Counter[str]:
            rows = client.info("commandstats")
            return Counter({name.removeprefix("cmdstat_"): int(row["calls"]) for name, row in rows.items()})

        before = seen()
        yield used
        used.update({name: count for name, count in (seen() - before).items() if name not in _BACKGROUND})


def wait_for_probe(breakers: Breakers) -> None:
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)


# -- closed --------------------------------------------------------------------------------------------------------


def test_a_closed_circuit_costs_no_command_and_a_failure_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    fail(breakers, 1)
    with commands(redis_url) as used:
        permits = [breakers.admit("a") for _ in range(1000)]
        assert breakers.may_pass("a")
        assert breakers.flows("a")
    assert used.round_trips == 0
    with commands(redis_url) as used:
        permits[0].settle(TimeoutError())
        permits[0].settle(TimeoutError())
    assert used.round_trips == 1, "settled twice, counted once"


def test_an_async_admission_to_a_closed_circuit_costs_no_command(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")

    async def admit() -> None:
        for _ in range(100):
            await breakers.admit_async("a")

    with commands(redis_url) as used:
        asyncio.run(admit())
    assert used.round_trips == 0


def test_the_failure_that_opens_it_costs_no_more_than_any_other(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    fail(breakers, 4)
    with commands(redis_url) as used:
        fail(breakers, 1)
    assert refused(breakers)
    assert used.round_trips == 1


def test_what_says_nothing_costs_nothing(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        for _ in range(10):
            with suppress(KeyError), breakers.circuit("a"):
                raise KeyError
    assert used.round_trips == 0


@pytest.mark.parametrize(
    "call",
    [lambda breakers: breakers.record_success("a"), lambda breakers: breakers.call("a", lambda: None)],
    ids=["told", "called"],
)
def test_a_thousand_successes_in_a_row_cost_a_few_commands(
    make: MakeBreakers, redis_url: str, call: Callable[[Breakers], None]
) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        began = time.monotonic()
        for _ in range(1000):
            call(breakers)
        lasted_s = time.monotonic() - began
    # one per tenth of a second, and one of the watcher's per half second
    assert used.round_trips <= 1 + lasted_s / 0.1 + 1 + lasted_s / 0.5
    breakers.flush()
    assert breakers.snapshot("a")["calls"] == 1001


def test_successes_of_a_slow_circuit_are_told_at_once(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    for count in range(1, 4):
        breakers.record_success("a")
        assert breakers.snapshot("a")["calls"] == count
        time.sleep(0.11)  # the time is what makes it slow


def test_a_failure_takes_the_waiting_successes_along(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        for _ in range(3):
            breakers.record_success("a")
        breakers.record_failure("a")
    assert used.round_trips <= 2
    shown = breakers.snapshot("a")
    assert (shown["calls"], shown["failures"], shown["streak"]) == (5, 1, 1)


# -- open, half-open, ramp -----------------------------------------------------------------------------------------


def test_an_open_circuit_refuses_without_a_command_and_a_probe_costs_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=SHORT)
    fail(breakers)
    with commands(redis_url) as used:
        assert all(refused(breakers) for _ in range(10))
    assert used.round_trips == 0
    until(lambda: breakers.may_pass("a"), within_s=2)
    with commands(redis_url) as used:
        permit = breakers.admit("a")
    assert used.round_trips == 1
    with commands(redis_url) as used:
        permit.settle()
    assert used.round_trips == 1


def test_in_half_open_each_admission_and_each_refusal_costs_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=SHORT)
    wait_for_probe(breakers)
    with commands(redis_url) as used:
        for _ in range(5):
            with suppress(CircuitOpenError):
                breakers.admit("a")
    assert used.round_trips == 5


def test_what_arrives_late_at_an_open_circuit_costs_nothing(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    late = [breakers.admit("a") for _ in range(3)]
    fail(breakers)
    with commands(redis_url) as used:
        for permit, ending in zip(late, (None, TimeoutError(), KeyError()), strict=True):
            permit.settle(ending)
    assert used.round_trips == 0


def test_what_arrives_late_after_the_circuit_moved_on_costs_nothing(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=SHORT)
    late = [breakers.admit("a") for _ in range(3)]
    wait_for_probe(breakers)
    breakers.admit("a")
    breakers.reset("a", actor="ann", reason="it is well again")
    with commands(redis_url) as used:
        for permit, ending in zip(late, (None, TimeoutError(), KeyError()), strict=True):
            permit.settle(ending)
    assert used.round_trips == 0
    assert breakers.snapshot("a")["calls"] == 0


def test_a_late_success_does_not_join_those_of_a_newer_epoch(make: MakeBreakers) -> None:
    breakers = make()
    late = [breakers.admit("a") for _ in range(3)]
    breakers.reset("a", actor="ann", reason="a fresh start")
    for permit in late:
        breakers.record_success("a")
        permit.settle()
    breakers.flush()
    assert breakers.snapshot("a")["calls"] == 3, "the three that began after the reset"


def test_during_the_ramp_an_admission_costs_nothing(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=RAMPING)
    wait_for_probe(breakers)
    breakers.call("a", lambda: None)
    assert breakers.snapshot("a")["ramp_s"] > 0
    with commands(redis_url) as used:
        for _ in range(100):
            with suppress(CircuitOpenError):
                breakers.admit("a")
    assert used.round_trips == 0


# -- operators -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["force_open", "disable", "metrics_only"])
def test_an_order_costs_one_and_calls_in_a_forced_state_none(make: MakeBreakers, redis_url: str, action: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        assert getattr(breakers, action)("a", actor="ann", reason="maintenance", ttl_s=60)
    assert used.round_trips == 1
    with commands(redis_url) as used:
        for _ in range(100):
            with suppress(CircuitOpenError):
                breakers.admit("a")
    assert used.round_trips == 0
    with commands(redis_url) as used:
        for _ in range(100):
            with suppress(CircuitOpenError, TimeoutError), breakers.circuit("a"):
                raise TimeoutError
    assert used.round_trips == (100 if action == "metrics_only" else 0), "metrics_only records, the others do not"


@pytest.mark.parametrize("action", ["reset", "auto"])
def test_a_word_that_changes_nothing_costs_one_too(make: MakeBreakers, redis_url: str, action: str) -> None:
    breakers = make(policy=LONG)
    breakers.record_success("a")
    with commands(redis_url) as used:
        getattr(breakers, action)("a", actor="ann", reason="to be sure")
    assert used.round_trips == 1


# -- many circuits -------------------------------------------------------------------------------------------------


def test_calls_that_wander_over_many_circuits_do_not_cost_a_round_trip_each(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=BreakerPolicy())
    names = [f"c{number}" for number in range(300)]
    with redis.Redis.from_url(redis_url) as client:

        def reads() -> int:
            """Requests that arrive together are read together, some sixteen kilobytes at once."""
            return int(client.info("stats")["total_reads_processed"])

        before, began = reads(), time.monotonic()
        for name in names:
            breakers.call(name, lambda: None)
        breakers.flush()
        lasted_s = time.monotonic() - began
        assert reads() - before <= len(names) / 3 + AT_ONCE * lasted_s / 0.1
    shown = breakers.snapshots(names)
    assert [shown[name]["calls"] for name in names] == [1] * len(names)
