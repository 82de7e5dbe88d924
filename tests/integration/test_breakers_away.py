"""Redis does not answer: no call raises or waits long, the process counts alone and says so once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from resilience import Breakers, CircuitOpenError
from resilience.breaker.permit import Permit
from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink, until
from signals.events import Result, StoreAway, StoreBack
from tests.integration.breaker_kit import BOUND_S, SHORT, MakeBreakers, fail, refused
from tests.timing import timed


def admitted(breakers: Breakers) -> Permit | None:
    try:
        return breakers.admit("a")
    except CircuitOpenError:
        return None


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_without_redis_no_call_raises_or_waits_long_and_it_is_said_once(
    make: MakeBreakers, own_redis: RedisServer, how: str
) -> None:
    sink = RecordingSink()
    breakers = make(own_redis.url(), sink=sink)
    breakers.record_success("a")

    getattr(own_redis, how)()
    waits = [timed(lambda: breakers.record_failure("a")) for _ in range(4)]
    waits += [timed(lambda: breakers.call("b", lambda: None)) for _ in range(4)]
    until(lambda: sink.of(StoreAway), within_s=3)
    assert max(waits) < BOUND_S
    assert sum(wait > 0.1 for wait in waits) <= 1, "one call finds out, the others do not wait at all"

    fail(breakers, 5)
    assert refused(breakers), "this process's own breaker opened"
    waits = [timed(lambda: refused(breakers)) for _ in range(100)]
    assert max(waits) < 0.1

    if how == "freeze":
        own_redis.thaw()
    else:
        own_redis.restart()
    until(lambda: sink.of(StoreBack), within_s=5)
    assert len(sink.of(StoreAway)) == 1
    assert len(sink.of(StoreBack)) == 1
    until(lambda: not refused(breakers), within_s=2, what="the shared circuit is closed, and it counts again")
    other = make(own_redis.url())
    fail(other, 5)
    fail(breakers, 5)
    until(lambda: refused(other) and refused(breakers), within_s=2)


def test_a_second_outage_begins_with_what_was_believed_last_not_where_the_first_ended(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    sink = RecordingSink()
    breakers = make(own_redis.url(), sink=sink)
    breakers.record_success("a")
    own_redis.freeze()
    fail(breakers, 6)
    assert refused(breakers), "this process's own breaker opened"
    own_redis.thaw()
    until(lambda: sink.of(StoreBack) and not refused(breakers), within_s=5)

    own_redis.freeze()
    until(lambda: len(sink.of(StoreAway)) == 2, within_s=5)
    breakers.record_failure("a")
    assert not refused(breakers), "one failure in the new outage, and the five of the old one are long past"
    own_redis.thaw()


def test_an_outage_in_half_open_lets_each_process_probe_no_more_than_the_fleet_would(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    breakers = make(own_redis.url(), policy=SHORT)
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    breakers.admit("a").settle(Result.NOTHING)
    own_redis.freeze()
    permits = [permit for _ in range(20) if (permit := admitted(breakers)) is not None]
    assert len(permits) == SHORT.half_open_permits
    permits[0].settle(TimeoutError())
    assert refused(breakers), "its own probe failed"
    until(lambda: not refused(breakers), within_s=2, what="it probes again by itself when its open time is over")
    own_redis.thaw()


def probing(breakers: Breakers) -> None:
    """Until it is time to probe; nobody does yet."""
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)


def closes_by_probes(breakers: Breakers) -> None:
    """Within a few seconds, when no place is taken by a probe that is over: its lease is a minute."""

    def probe() -> bool:
        permit = admitted(breakers)
        if permit is not None:
            permit.settle()
        return breakers.get_state("a") == "closed"

    until(probe, within_s=10, what="it closes")


def test_probes_that_ended_while_redis_was_away_take_nobodys_place_afterwards(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    breakers, others = make(own_redis.url(), policy=SHORT), make(own_redis.url(), policy=SHORT)
    probing(breakers)
    permits = [breakers.admit("a") for _ in range(SHORT.half_open_permits)]
    own_redis.freeze()
    until(lambda: breakers.link.away, within_s=5, what="it is known")
    for permit, ending in zip(permits, (None, TimeoutError(), None), strict=True):
        permit.settle(ending)
    own_redis.thaw()
    closes_by_probes(others)


def test_a_permit_that_came_too_late_for_who_asked_takes_nobodys_place(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    """A server that was frozen grants it when it goes on; who asked was told by its own process long ago."""
    others, asking = make(own_redis.url(), policy=SHORT), [make(own_redis.url(), policy=SHORT) for _ in range(6)]
    probing(others)
    for breakers in asking:
        until(lambda: breakers.may_pass("a"), within_s=2)  # noqa: B023
    own_redis.freeze()
    with ThreadPoolExecutor(len(asking)) as at_once:
        permits = list(at_once.map(admitted, asking))
    for permit in permits:
        assert permit is not None, "each process probes for itself"
        permit.settle(TimeoutError())
    own_redis.thaw()
    closes_by_probes(others)


def test_what_the_store_says_after_an_outage_wins_over_an_epoch_that_was_counted_alone(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    """One process alone cannot write and opens under the very epoch under which the others have a closed circuit."""
    sink, others = RecordingSink(), make(own_redis.url())
    with redis.Redis.from_url(own_redis.url()) as operator:
        operator.execute_command("ACL", "SETUSER", "one", "on", ">secret", "~*", "&*", "+@all")
        one = make(own_redis.url().replace("//", "//one:secret@"), sink=sink)
        one.record_success("a")
        operator.execute_command("ACL", "SETUSER", "one", "-evalsha", "-eval")
        fail(one, 6)
        assert refused(one)
        others.reset("a", actor="ann", reason="a fresh start")
        assert (others.snapshot("a")["state"], others.snapshot("a")["epoch"]) == ("closed", 2)
        operator.execute_command("ACL", "SETUSER", "one", "+evalsha", "+eval")
    until(lambda: sink.of(StoreBack), within_s=5)
    until(lambda: not refused(one), within_s=2)


def test_threads_do_not_queue_up_behind_a_frozen_redis(make: MakeBreakers, own_redis: RedisServer) -> None:
    breakers = make(own_redis.url())
    breakers.record_success("a")
    own_redis.freeze()
    waits: list[float] = []
    threads = [
        threading.Thread(target=lambda: waits.append(timed(lambda: breakers.record_failure("a")))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own_redis.thaw()
    assert max(waits) < BOUND_S


def test_a_process_that_starts_while_redis_is_frozen_works_alone(make: MakeBreakers, own_redis: RedisServer) -> None:
    own_redis.freeze()
    sink = RecordingSink()
    breakers = make(own_redis.url(), sink=sink)
    assert timed(lambda: breakers.admit("a")) < BOUND_S
    fail(breakers)
    assert refused(breakers)
    own_redis.thaw()
    until(lambda: sink.of(StoreBack), within_s=5)


def test_without_redis_an_operator_is_told(make: MakeBreakers, own_redis: RedisServer) -> None:
    breakers = make(own_redis.url())
    breakers.record_success("a")
    own_redis.kill()
    with pytest.raises((redis.RedisError, OSError)):
        breakers.reset("a", actor="ann", reason="please")
    with pytest.raises((redis.RedisError, OSError)):
        breakers.snapshot("a")
