"""Circuits in a process that gevent has patched: greenlets are counted exactly, and nobody holds up the others."""

from __future__ import annotations

import importlib.util

import pytest

from resilience.local.redis_server import RedisServer
from tests.integration.breaker_kit import process, says

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed: pip install 'celeriac[dev]'"
)

_BEGIN = """
        from gevent import monkey
        monkey.patch_all()
        import sys, time
        import gevent
        from gevent.event import Event
        from resilience import BreakerPolicy, Breakers, CircuitOpenError
        GREENLETS = 200

        def everywhere(work):
            greenlets = [gevent.spawn(work, number) for number in range(GREENLETS)]
            gevent.joinall(greenlets, raise_error=True)
            return [greenlet.value for greenlet in greenlets]
"""


def test_two_hundred_greenlets_in_one_shared_circuit_are_counted_exactly(redis_url: str) -> None:
    script = f"""{_BEGIN}
        policy = BreakerPolicy(consecutive_failures=10_000, minimum_calls=1_000_000)
        breakers = Breakers.from_url(sys.argv[1], timeout_s=2.0, policies={{"a": policy}})
        through, gate = breakers.circuit("a"), Event()

        def work(number):
            for turn in range(10):
                try:
                    with through as permit:
                        gate.wait(0.01)
                        if turn % 2:
                            with through as inner:
                                gevent.sleep(0)
                            assert inner.settled and not permit.settled
                        if turn == number % 10:
                            raise TimeoutError
                except TimeoutError:
                    assert turn == number % 10
                assert permit.settled

        everywhere(work)
        breakers.flush()
        shown = breakers.snapshot("a")
        print(shown["calls"], shown["failures"], flush=True)
        breakers.close()
        print("closed", flush=True)
    """
    with process(script, redis_url) as child:
        assert says(child) == f"{200 * 15} 200"
        assert says(child) == "closed"
        assert child.wait(10) == 0


def test_two_hundred_greenlets_that_fail_at_once_are_all_counted_and_redis_is_not_thought_away(redis_url: str) -> None:
    script = f"""{_BEGIN}
        from resilience.testing import RecordingSink
        from signals.bus import Bus
        sink, bus = RecordingSink(), Bus()
        bus.subscribe(sink)
        policy = BreakerPolicy(consecutive_failures=10_000, minimum_calls=1_000_000)
        breakers = Breakers.from_url(sys.argv[1], timeout_s=2.0, policies={{"a": policy}}, bus=bus)
        breakers.record_success("a")
        everywhere(lambda number: breakers.record_failure("a"))
        print(breakers.snapshot("a")["failures"], sink.events, flush=True)
        breakers.close()
    """
    with process(script, redis_url) as child:
        assert says(child) == "200 []"
        assert child.wait(10) == 0


def test_of_two_hundred_greenlets_in_half_open_three_are_admitted(redis_url: str) -> None:
    script = f"""{_BEGIN}
        policy = BreakerPolicy(open_s=0.2, open_max_s=5, jitter=0, ramp_s=0)
        breakers = Breakers.from_url(sys.argv[1], timeout_s=2.0, policies={{"a": policy}})
        for _ in range(5):
            breakers.record_failure("a")
        while not breakers.may_pass("a"):
            time.sleep(0.01)

        def work(number):
            try:
                return breakers.admit("a")
            except CircuitOpenError:
                return None

        permits = [permit for permit in everywhere(work) if permit is not None]
        print(len(permits), flush=True)
        for permit in permits:
            permit.settle()
        print(breakers.get_state("a"), flush=True)
        breakers.close()
    """
    with process(script, redis_url) as child:
        assert says(child) == "3"
        assert says(child) == "closed"
        assert child.wait(10) == 0


def test_a_frozen_redis_holds_up_no_other_greenlet(own_redis: RedisServer) -> None:
    script = f"""{_BEGIN}
        breakers = Breakers.from_url(sys.argv[1], timeout_s=1.0)
        breakers.record_success("a")
        gaps = []

        def tick():
            last = time.monotonic()
            while True:
                gevent.sleep(0.01)
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        ticking = gevent.spawn(tick)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        everywhere(lambda number: breakers.record_failure("a"))
        waited = time.monotonic() - began
        ticking.kill()
        print(waited >= 0.9, max(gaps) < 0.5, len(gaps) > 30, flush=True)
    """
    with process(script, own_redis.url()) as child:
        assert says(child) == "ready"
        own_redis.freeze()
        try:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            assert says(child) == "True True True"
        finally:
            own_redis.thaw()
