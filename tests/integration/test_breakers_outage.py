"""Redis is killed, frozen, restarted or takes no writes while a circuit is in each of its states.

No call waits beyond the store's timeout, none is failed by the middleware, it is said once that the store is away and
once that it is back, and afterwards every process believes what the store says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.breaker.permit import Permit
from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink, until
from signals.events import StoreAway, StoreBack
from tests.integration.breaker_kit import BOUND_S, LONG, SHORT, MakeBreakers, Turns, fail, refused
from tests.timing import timed

RAMPING = SHORT.model_copy(update={"ramp_s": 60.0, "success_threshold": 1})
POLICIES = {"half_open": SHORT, "ramping": RAMPING}
STATES = ["closed", "open", "half_open", "forced_open", "disabled", "metrics_only", "ramping"]


def policy_of(state: str) -> BreakerPolicy:
    return POLICIES.get(state, LONG)


def bring_to(state: str, breakers: Breakers) -> Permit | None:
    """Bring circuit a into `state`; in half_open, a probe is under way: its permit."""
    breakers.record_success("a")
    match state:
        case "open":
            fail(breakers)
        case "half_open":
            fail(breakers)
            until(lambda: breakers.may_pass("a"), within_s=2)
            return breakers.admit("a")
        case "ramping":
            fail(breakers)
            until(lambda: breakers.may_pass("a"), within_s=2)
            breakers.call("a", lambda: None)
            assert breakers.snapshot("a")["ramp_s"] > 0
        case "forced_open":
            breakers.force_open("a", actor="ann", reason="maintenance")
        case "disabled":
            breakers.disable("a", actor="ann", reason="noise")
        case "metrics_only":
            breakers.metrics_only("a", actor="ann", reason="trial")
    return None


def call(breakers: Breakers, fails: bool) -> None:
    """A call as an application makes it; only its own error or a refusal may come out of it."""

    def work() -> None:
        if fails:
            raise TimeoutError

    with suppress(TimeoutError, CircuitOpenError):
        breakers.call("a", work)


def waits_of_all_calls(breakers: Breakers, probe: Permit | None) -> list[float]:
    """Everything that a call can do, each timed; what raises anything of the middleware's own fails the test."""
    deeds: list[Callable[[], object]] = [] if probe is None else [probe.settle]
    deeds += [
        lambda: call(breakers, fails=True),
        lambda: call(breakers, fails=False),
        lambda: breakers.record_failure("a"),
        lambda: breakers.record_success("a"),
        lambda: breakers.may_pass("a"),
        lambda: breakers.flows("a"),
        breakers.flush,
    ]
    return [timed(deed) for deed in deeds]


def agrees(breakers: Breakers) -> bool:
    """Whether the process believes what the store says of the circuit."""
    view, entry = breakers._views.get("a"), breakers._store.index().get("a")
    return (view and (view.state, view.epoch)) == (entry and (entry.state, entry.epoch))


def assert_shared_again(breakers: Breakers, other: Breakers, sink: RecordingSink) -> None:
    until(lambda: sink.of(StoreBack), within_s=5)
    until(lambda: not other.link.away and agrees(breakers) and agrees(other), within_s=3)
    breakers.reset("a", actor="ann", reason="the outage is over")
    until(lambda: other.flows("a"), within_s=2)
    for _ in range(LONG.consecutive_failures):
        breakers.record_failure("a")
        other.record_failure("a")
    assert breakers.get_state("a") == "open"
    until(lambda: refused(breakers) and refused(other), within_s=2, what="one opens it for both")
    assert (len(sink.of(StoreAway)), len(sink.of(StoreBack))) == (1, 1), "said once each"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_no_call_waits_or_fails_when_redis_vanishes_while_the_circuit_is(
    make: MakeBreakers, own_redis: RedisServer, state: str, fault: str
) -> None:
    sink = RecordingSink()
    breakers = make(own_redis.url(), policy=policy_of(state), sink=sink)
    other = make(own_redis.url(), policy=policy_of(state).model_copy(update={"open_s": 0.3}))
    other.admit("a").settle()
    probe = bring_to(state, breakers)

    getattr(own_redis, fault)()
    waits = waits_of_all_calls(breakers, probe)
    until(lambda: sink.of(StoreAway), within_s=3)
    waits += [wait for _ in range(10) for wait in waits_of_all_calls(breakers, None)]
    assert max(waits) < BOUND_S
    assert sum(wait > 0.1 for wait in waits) <= 1, "one call finds out, the others do not wait at all"

    own_redis.thaw() if fault == "freeze" else own_redis.restart()
    assert_shared_again(breakers, other, sink)


@pytest.fixture
def lasting_redis() -> Iterator[RedisServer]:
    """A Redis of the test's own that keeps its data across a restart."""
    with RedisServer(appendonly=True) as server:
        yield server


@pytest.mark.parametrize("state", STATES)
def test_no_call_waits_or_fails_when_redis_restarts_while_the_circuit_is(
    make: MakeBreakers, lasting_redis: RedisServer, state: str
) -> None:
    sink = RecordingSink()
    breakers = make(lasting_redis.url(), policy=policy_of(state), sink=sink)
    other = make(lasting_redis.url(), policy=policy_of(state))
    other.admit("a").settle()
    probe = bring_to(state, breakers)

    restart = threading.Thread(target=lasting_redis.restart)
    restart.start()
    waits = waits_of_all_calls(breakers, probe)
    while restart.is_alive():
        waits += waits_of_all_calls(breakers, None)
        time.sleep(0.001)  # the server needs the processor, too
    assert max(waits) < BOUND_S
    assert_shared_again(breakers, other, sink)


# -- it answers, but takes no writes -------------------------------------------------------------------------------


@contextmanager
def configured(server: RedisServer, refuse: list[str], accept: list[str]) -> Iterator[None]:
    """Inside the block, the server is as `refuse` makes it; afterwards as `accept` does."""
    with redis.Redis.from_url(server.url()) as operator:
        operator.execute_command(*refuse)
        yield
        operator.execute_command(*accept)


REFUSALS = {
    "a replica of nobody": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
    "missing its replicas": (
        ["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"],
    ),
    "out of memory": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "forbidding scripts": (
        ["ACL", "SETUSER", "default", "-eval", "-evalsha"], ["ACL", "SETUSER", "default", "+eval", "+evalsha"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_redis_that_takes_no_writes_is_away_once_and_back_once(
    make: MakeBreakers, own_redis: RedisServer, refusal: str
) -> None:
    sink = RecordingSink()
    breakers, other = make(own_redis.url(), sink=sink), make(own_redis.url())
    bring_to("closed", breakers)
    other.admit("a").settle()
    turns = Turns(breakers)

    with configured(own_redis, *REFUSALS[refusal]):
        waits: list[float] = []

        def go_on() -> bool:
            waits.extend(waits_of_all_calls(breakers, None))
            return turns.seen >= 4

        until(go_on, what="the watcher had four chances to believe that the store is back")
        assert max(waits) < BOUND_S
        assert (len(sink.of(StoreAway)), len(sink.of(StoreBack))) == (1, 0)
        assert refused(breakers), "this process's own breaker opened"
        fail(other, 1)
    assert_shared_again(breakers, other, sink)


# -- it answers, but what it holds of one circuit is damaged -------------------------------------------------------

DAMAGES = {
    "a number that is none": ["HSET", "celeriac:v1:circuit:a", "epoch", "x"],
    "a value of another type": ["SET", "celeriac:v1:circuit:a", "mine"],
    "permits of another type": ["SET", "celeriac:v1:permits:a", "mine"],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_circuit_fails_no_call_and_leaves_the_others_shared(
    make: MakeBreakers, own_redis: RedisServer, damage: str
) -> None:
    sink = RecordingSink()
    breakers, other = make(own_redis.url(), sink=sink), make(own_redis.url())
    bring_to("closed", breakers)
    other.admit("b").settle()
    with redis.Redis.from_url(own_redis.url()) as stranger:
        stranger.execute_command(*DAMAGES[damage])

        for _ in range(10):
            waits_of_all_calls(breakers, None)
        assert refused(breakers), "this process's own breaker opened"
        for _ in range(3):
            fail(breakers, 1, "b")
            fail(other, 1, "b")
        until(lambda: refused(breakers, "b") and refused(other, "b"), within_s=2, what="the others are shared")
        assert sink.of(StoreAway) == []
        assert breakers._watcher._thread is not None
        assert breakers._watcher._thread.is_alive()

        stranger.delete("celeriac:v1:circuit:a", "celeriac:v1:permits:a")
    assert breakers.reset("a", actor="ann", reason="deleted what was damaged")
    until(lambda: not refused(breakers) and not refused(other), within_s=2)
    assert agrees(breakers)
