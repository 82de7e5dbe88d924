"""Twenty processes and one circuit: they open it together, probe it three at a time, and agree on when."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack

import pytest

from resilience import BreakerPolicy
from resilience.testing import until
from signals.events import Result
from tests.integration.breaker_fleet import fleet
from tests.integration.breaker_kit import LONG, MakeBreakers, process, refused, says

SIZE = 20
PROBED = BreakerPolicy(open_s=0.3, open_max_s=5, jitter=0, ramp_s=0)
BY_RATIO = BreakerPolicy(consecutive_failures=10_000, open_s=60)


def test_twenty_processes_with_nine_failures_each_open_it_and_it_is_said_once(redis_url: str) -> None:
    with fleet(redis_url, LONG, SIZE) as processes:
        assert processes.ask("refused") == [False] * SIZE
        processes.ask("calls", "x" * 9)
        until(lambda: all(processes.ask("refused")), within_s=2)
        assert processes.changes() == [("closed", "open")]


def test_of_twenty_processes_in_half_open_exactly_three_are_admitted(redis_url: str) -> None:
    with fleet(redis_url, PROBED, SIZE) as processes:
        processes.ask("refused")
        processes.ask("calls", "x" * 9)
        until(lambda: all(processes.ask("may_pass")), within_s=5, what="all believe that a probe may pass")
        assert sum(processes.ask("admit")) == 3
        assert sum(processes.ask("admit")) == 0, "as long as the three are under way"
        processes.ask("settle")
        until(lambda: not any(processes.ask("refused")), within_s=2)
        assert sorted(processes.changes()) == [("closed", "open"), ("half_open", "closed"), ("open", "half_open")]


def test_after_a_probe_is_killed_the_next_passes_within_one_lease(redis_url: str) -> None:
    lease_s = 1.5
    policy = PROBED.model_copy(update={"half_open_permits": 1, "success_threshold": 1})
    with fleet(redis_url, policy, 3) as processes:
        victim, *others = processes.members
        processes.ask("calls", "x" * 9)
        until(lambda: victim.ask("admit", lease_s), within_s=5)
        began = time.monotonic()
        victim.kill()
        processes.members = others
        assert processes.ask("admit", lease_s) == [False, False], "its place is held"
        until(lambda: any(processes.ask("admit", lease_s)), within_s=5)
        waited_s = time.monotonic() - began
        assert 0.5 * lease_s < waited_s < lease_s + 0.5
        processes.ask("settle")
        until(lambda: not any(processes.ask("refused")), within_s=2)


def test_two_of_three_calls_failing_all_over_the_fleet_open_it_by_ratio(redis_url: str) -> None:
    with fleet(redis_url, BY_RATIO, 10) as processes:
        processes.ask("refused")
        processes.ask("calls", ".xx" * 10)
        until(lambda: all(processes.ask("refused")), within_s=2)
        [reason] = [reason for reasons in processes.ask("reasons") for reason in reasons]
        failed, _of, calls, *rest = reason.split()
        assert rest == ["calls", "failed"]
        assert int(calls) >= BY_RATIO.minimum_calls
        assert 0.5 <= int(failed) / int(calls) <= 0.7


def test_one_of_three_calls_failing_all_over_the_fleet_does_not_open_it(make: MakeBreakers, redis_url: str) -> None:
    with fleet(redis_url, BY_RATIO, 10) as processes:
        processes.ask("refused")
        processes.ask("calls", "..x" * 10)
        shown = make(policy=BY_RATIO).snapshot("a")
        assert (shown["state"], shown["calls"], shown["failures"]) == ("closed", 300, 100), "and no call is lost"


def test_late_successes_of_older_epochs_close_and_count_nothing(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=PROBED)
    with fleet(redis_url, PROBED, 4) as processes:
        slow, *others = processes.members
        assert [slow.ask("admit") for _ in range(5)] == [True] * 5, "calls that began while it was closed"
        for other in others:
            other.ask("calls", "xxx")
        until(lambda: others[0].ask("admit"), within_s=5, what="its first probe")
        slow.ask("settle")
        assert (breakers.snapshot("a")["state"], breakers.snapshot("a")["probes_passed"]) == ("half_open", 0)

        others[1].ask("admit")
        others[0].ask("settle", Result.FAILURE.value)
        until(lambda: others[2].ask("admit"), within_s=5, what="the first probe of the second half-open time")
        others[1].ask("settle")
        shown = breakers.snapshot("a")
        assert (shown["state"], shown["probes_passed"], shown["calls"]) == ("half_open", 0, 0)


# -- clocks --------------------------------------------------------------------------------------------------------

_ON_A_HOST_WITH_ANOTHER_CLOCK = """
    import datetime, sys, time
    offset_s, real = float(sys.argv[2]), time.time
    for clock, unit in (("time", 1), ("monotonic", 1), ("time_ns", 10**9), ("monotonic_ns", 10**9)):
        def shifted(read=getattr(time, clock), by=type(getattr(time, clock)())(offset_s * unit)):
            return read() + by
        setattr(time, clock, shifted)
    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(seconds=offset_s)
        @classmethod
        def utcnow(cls):
            return super().utcnow() + datetime.timedelta(seconds=offset_s)
    datetime.datetime = Shifted

    from resilience import BreakerPolicy, Breakers, CircuitOpenError
    breakers = Breakers.from_url(sys.argv[1], policies={"a": BreakerPolicy.model_validate_json(sys.argv[3])})

    def refused():
        try:
            breakers.admit("a").settle()
        except CircuitOpenError:
            return True
        return False

    def wait_for(wanted):
        began = time.monotonic()
        while refused() is not wanted:
            time.sleep(0.005)
        return time.monotonic() - began

    deeds = {
        "off by": lambda: round(datetime.datetime.now().timestamp() - real()),
        "fail": lambda: breakers.record_failure("a"),
        "refused": refused,
        "wait until refused": lambda: wait_for(True),
        "wait until admitted": lambda: wait_for(False),
    }
    for line in sys.stdin:
        print(deeds[line.strip()](), flush=True)
    breakers.close()
"""


def ask(child: subprocess.Popen[str], deed: str) -> str:
    assert child.stdin is not None
    child.stdin.write(f"{deed}\n")
    child.stdin.flush()
    return says(child)


def test_hosts_whose_clocks_are_an_hour_off_open_probe_and_forget_with_all_others(
    make: MakeBreakers, redis_url: str
) -> None:
    policy = BreakerPolicy(
        consecutive_failures=10_000, minimum_calls=4, open_s=0.8, open_max_s=5, jitter=0, ramp_s=0, half_open_permits=1,
        success_threshold=1,
    )  # fmt: skip
    breakers = make(policy=policy)
    text = json.dumps(policy.model_dump(exclude_defaults=True))
    with ExitStack() as hosts:
        early, late = (
            hosts.enter_context(process(_ON_A_HOST_WITH_ANOTHER_CLOCK, redis_url, str(offset_s), text))
            for offset_s in (-3600, 3600)
        )
        assert (ask(early, "off by"), ask(late, "off by")) == ("-3600", "3600")

        # When both fail, their failures meet in one window, and all learn of the opening at once.
        for host in (early, late, early, late):
            ask(host, "fail")
        opened = time.monotonic()
        assert breakers.get_state("a") == "open"
        assert float(ask(early, "wait until refused")) < 0.3
        assert float(ask(late, "wait until refused")) < 0.3
        until(lambda: refused(breakers), within_s=1)
        shown = breakers.snapshot("a")
        assert 0 < shown["probe_in_s"] <= 0.8
        assert 0 <= shown["changed_s_ago"] < 0.8

        # Its time ends for them when it ends for all; their probe closes it for all.
        ask(late, "wait until admitted")
        assert 0.7 < time.monotonic() - opened < 1.6
        until(lambda: breakers.flows("a"), within_s=1)
        assert float(ask(early, "wait until admitted")) < 0.5

        # So do an operator's time limits.
        breakers.force_open("a", actor="ann", reason="maintenance", ttl_s=0.8)
        forced = time.monotonic()
        for host in (early, late):
            ask(host, "wait until refused")
        for host in (early, late):
            ask(host, "wait until admitted")
        assert 0.7 < time.monotonic() - forced < 2.0


@pytest.mark.parametrize("offset_s", [-3600, 3600])
def test_a_host_whose_clock_is_off_forgets_with_the_window_as_the_others_do(
    make: MakeBreakers, redis_url: str, offset_s: int
) -> None:
    policy = BreakerPolicy(consecutive_failures=10_000, minimum_calls=2, window_s=0.4, open_s=60)
    breakers = make(policy=policy)
    text = json.dumps(policy.model_dump(exclude_defaults=True))
    with process(_ON_A_HOST_WITH_ANOTHER_CLOCK, redis_url, str(offset_s), text) as host:
        ask(host, "fail")
        until(lambda: breakers.snapshot("a")["calls"] == 0, within_s=3, what="the window forgot it")
        ask(host, "fail")
        assert breakers.get_state("a") == "closed"
        assert breakers.snapshot("a")["calls"] == 1
