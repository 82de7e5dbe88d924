"""Redis does not answer: no call raises or waits long, the process counts alone and says so once."""

from __future__ import annotations

import threading

import pytest
import redis

from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink, until
from signals.events import StoreAway, StoreBack
from tests.integration.breaker_kit import BOUND_S, MakeBreakers, fail, refused, timed


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
