"""Circuits on a real Redis, fed by real processes: what is shared, what it costs, and life without an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink, until
from signals.bus import Bus
from signals.events import CircuitChanged, Result, StoreAway, StoreBack

# A call waits at most this long for the store; the rest is room for a busy machine.
TIMEOUT_S = 0.25
BOUND_S = TIMEOUT_S + 0.25

SHORT = BreakerPolicy(consecutive_failures=5, open_s=0.2, open_max_s=5, jitter=0, ramp_s=0)
LONG = BreakerPolicy(consecutive_failures=5, open_s=60, jitter=0)

MakeBreakers = Callable[..., Breakers]


@pytest.fixture
def make(redis_url: str) -> Iterator[MakeBreakers]:
    """Make Breakers as separate processes would; all are closed at the end."""
    made: list[Breakers] = []

    def build(url: str = redis_url, policy: BreakerPolicy = LONG, sink: RecordingSink | None = None) -> Breakers:
        bus = Bus()
        if sink is not None:
            bus.subscribe(sink)
        breakers = Breakers.from_url(url, timeout_s=TIMEOUT_S, policies={"a": policy, "b": policy}, bus=bus)
        made.append(breakers)
        return breakers

    yield build
    for breakers in made:
        breakers.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that a test may freeze and kill."""
    with RedisServer() as server:
        yield server


def fail(breakers: Breakers, times: int = 5, name: str = "a") -> None:
    for _ in range(times):
        breakers.record_failure(name)


def refused(breakers: Breakers, name: str = "a") -> bool:
    try:
        breakers.admit(name).settle(Result.NOTHING)
    except CircuitOpenError:
        return True
    return False


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A real other process that runs `code`; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def says(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


# -- one circuit for every process ---------------------------------------------------------------------------------


def test_five_failures_of_one_process_close_the_way_for_another_within_a_second(
    make: MakeBreakers, redis_url: str
) -> None:
    watcher = """
        import sys, time
        from resilience import Breakers, CircuitOpenError
        breakers = Breakers.from_url(sys.argv[1])
        breakers.admit("a").settle()
        print("ready", flush=True)
        while True:
            try:
                breakers.admit("a")
            except CircuitOpenError as error:
                print(time.time(), str(error), flush=True)
                break
            time.sleep(0.005)
        breakers.close()
    """
    breakers = make()
    with process(watcher, redis_url) as other:
        assert says(other) == "ready"
        fail(breakers, 4)
        # The other process fed the circuit too, and its success may have come in between: two workers have to fail.
        with process(
            "import sys; from resilience import Breakers\n"
            "b = Breakers.from_url(sys.argv[1]); b.record_failure('a'); b.close(); print('done', flush=True)",
            redis_url,
        ) as third:
            assert says(third) == "done"
        opened = time.time()
        seen_at, _, sentence = says(other).partition(" ")
        assert float(seen_at) - opened < 1.0
        assert sentence.startswith("circuit a is open: a probe may pass in ")


def test_one_process_alone_opens_it_and_says_so_once(make: MakeBreakers) -> None:
    sink, other_sink = RecordingSink(), RecordingSink()
    breakers, other = make(sink=sink), make(sink=other_sink)
    other.admit("a").settle(Result.NOTHING)
    fail(breakers, 4)
    assert breakers.get_state("a") == "closed"
    fail(breakers, 1)
    assert breakers.get_state("a") == "open"
    until(lambda: refused(other), within_s=1)
    [event] = sink.of(CircuitChanged)
    assert (event.name, event.old, event.new, event.epoch) == ("a", "closed", "open", 2)
    assert event.reason == "5 failures in a row"
    assert event.open_s == pytest.approx(60, abs=1)
    assert other_sink.of(CircuitChanged) == [], "the process whose call moved it speaks, no other"


def test_a_process_that_starts_later_knows_the_open_circuit_at_once(make: MakeBreakers) -> None:
    fail(make())
    assert refused(make())


def test_half_open_probes_close_it_and_everybody_sees(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers, other = make(policy=SHORT, sink=sink), make(policy=SHORT)
    assert not refused(other)
    fail(breakers)
    until(lambda: refused(other), within_s=1)
    until(lambda: not refused(breakers), within_s=2, what="its open time is over")
    for _ in range(3):
        breakers.call("a", lambda: None)
    assert breakers.get_state("a") == "closed"
    until(lambda: other.flows("a"), within_s=1)
    assert [event.new for event in sink.of(CircuitChanged)] == ["open", "half_open", "closed"]


def test_a_call_that_raises_counts_by_its_category_and_raises_on(make: MakeBreakers) -> None:
    breakers = make()
    for _ in range(10):
        with pytest.raises(KeyError), breakers.circuit("a"):
            raise KeyError("a mistake is not the dependency's")
    assert breakers.get_state("a") == "closed"
    for _ in range(5):
        with pytest.raises(TimeoutError), breakers.circuit("a"):
            raise TimeoutError
    assert breakers.get_state("a") == "open"
    with pytest.raises(CircuitOpenError) as refusal, breakers.circuit("a"):
        pytest.fail("no call passes an open circuit")
    assert 0 < refusal.value.retry_after_s <= 60


def test_an_unusable_name_is_refused_and_harms_nobody(make: MakeBreakers) -> None:
    breakers, other = make(), make()
    assert not refused(other)
    for bad in ("two words", "", "new\nline"):
        with pytest.raises(ValueError, match="is not usable"):
            breakers.admit(bad)
        with pytest.raises(ValueError, match="is not usable"):
            breakers.record_failure(bad)
    fail(breakers)
    until(lambda: refused(other), within_s=1)


def test_a_push_that_nobody_understands_does_not_end_the_watching(make: MakeBreakers, redis_url: str) -> None:
    breakers, other = make(), make()
    assert not refused(other)
    with redis.Redis.from_url(redis_url) as stranger:
        until(lambda: stranger.pubsub_numsub("celeriac:v1:circuits")[0][1] >= 1)
        stranger.publish("celeriac:v1:circuits", "hello")
        stranger.publish("celeriac:v1:circuits", "a nonsense 2 0")
    fail(breakers)
    until(lambda: refused(other), within_s=2)


# -- what it costs -------------------------------------------------------------------------------------------------


@contextmanager
def commands(url: str) -> Iterator[dict[str, int]]:
    """Script calls (EVALSHA) that Redis ran inside the block; the watchers' polling uses none."""
    with redis.Redis.from_url(url) as client:

        def count() -> int:
            return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

        before, counted = count(), {"evalsha": 0}
        yield counted
        counted["evalsha"] = count() - before


def test_a_closed_circuit_costs_no_command_and_a_failure_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    fail(breakers, 1)
    with commands(redis_url) as used:
        permits = [breakers.admit("a") for _ in range(1000)]
    assert used["evalsha"] == 0
    with commands(redis_url) as used:
        permits[0].settle(TimeoutError())
        permits[0].settle(TimeoutError())
    assert used["evalsha"] == 1, "settled twice, counted once"


def test_successes_travel_together(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        began = time.monotonic()
        for _ in range(200):
            breakers.record_success("a")
        lasted = time.monotonic() - began
    assert used["evalsha"] <= 1 + lasted / 0.1
    breakers.flush()
    assert breakers.snapshot("a")["calls"] == 201


def test_a_failure_takes_the_waiting_successes_along(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    breakers.record_success("a")
    with commands(redis_url) as used:
        for _ in range(3):
            breakers.record_success("a")
        breakers.record_failure("a")
    assert used["evalsha"] <= 2
    shown = breakers.snapshot("a")
    assert (shown["calls"], shown["failures"], shown["streak"]) == (5, 1, 1)


def test_an_open_circuit_refuses_without_a_command_and_a_probe_costs_one(make: MakeBreakers, redis_url: str) -> None:
    breakers = make(policy=SHORT)
    fail(breakers)
    with commands(redis_url) as used:
        assert all(refused(breakers) for _ in range(10))
    assert used["evalsha"] == 0
    until(lambda: breakers.may_pass("a"), within_s=2)
    with commands(redis_url) as used:
        permit = breakers.admit("a")
    assert used["evalsha"] == 1
    with commands(redis_url) as used:
        permit.settle()
    assert used["evalsha"] == 1


# -- half-open -----------------------------------------------------------------------------------------------------


def test_many_threads_of_many_processes_get_three_permits_together(make: MakeBreakers) -> None:
    fleet = [make(policy=SHORT) for _ in range(4)]
    fail(fleet[0])
    until(lambda: all(refused(breakers) or breakers.may_pass("a") for breakers in fleet), within_s=2)
    until(lambda: all(breakers.may_pass("a") for breakers in fleet), within_s=2)
    start, granted = threading.Barrier(8), []

    def ask(breakers: Breakers) -> None:
        start.wait()
        for _ in range(5):
            with suppress(CircuitOpenError):
                granted.append(breakers.admit("a"))

    threads = [threading.Thread(target=ask, args=(fleet[n % 4],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 3
    for permit in granted:
        permit.settle()
    assert fleet[0].get_state("a") == "closed"


def test_a_probe_that_is_killed_frees_its_permit_when_its_lease_ends(make: MakeBreakers, redis_url: str) -> None:
    probe = """
        import sys
        from resilience import Breakers, BreakerPolicy
        policy = BreakerPolicy(open_s=0.2, open_max_s=5, half_open_permits=1, success_threshold=1, jitter=0)
        breakers = Breakers.from_url(sys.argv[1], policies={"a": policy})
        breakers.admit("a", lease_s=1.0)
        print("probing", flush=True)
        sys.stdin.read()
    """
    breakers = make(policy=SHORT.model_copy(update={"half_open_permits": 1, "success_threshold": 1}))
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    with process(probe, redis_url) as child:
        assert says(child) == "probing"
        began = time.monotonic()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert refused(breakers), "its place is held"
        until(lambda: not refused(breakers), within_s=3)
        assert time.monotonic() - began > 0.5
    breakers.call("a", lambda: None)
    assert breakers.get_state("a") == "closed"


def test_a_lost_attempt_is_settled_by_its_id_and_once(make: MakeBreakers) -> None:
    breakers, main_process = make(policy=SHORT), make(policy=SHORT)
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    permit = breakers.admit("a", "task:1")
    until(lambda: not main_process.flows("a") or refused(main_process), within_s=1)
    permit.settle()
    main_process.settle_lost("a", "task:1", Result.FAILURE)
    assert breakers.get_state("a") == "half_open", "a child that dies after its success is no failure"
    breakers.admit("a", "task:2")
    main_process.settle_lost("a", "task:2", Result.FAILURE)
    assert breakers.get_state("a") == "open"


# -- operators -----------------------------------------------------------------------------------------------------


def test_a_reset_closes_it_for_everybody_and_is_written_down(make: MakeBreakers) -> None:
    breakers, other = make(), make()
    fail(breakers)
    until(lambda: refused(other), within_s=1)
    epoch = breakers.snapshot("a")["epoch"]
    assert not breakers.reset("a", actor="ann", reason="too early", epoch=epoch - 1)
    assert refused(breakers)
    assert breakers.reset("a", actor="ann", reason="vendor is back", epoch=epoch)
    assert not refused(breakers)
    until(lambda: not refused(other), within_s=1)
    assert [(row["actor"], row["reason"], row["done"]) for row in breakers.audit()] == [
        ("ann", "vendor is back", "true"), ("ann", "too early", "false"),
    ]  # fmt: skip


def test_a_reset_of_a_closed_circuit_is_no_event(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers = make(sink=sink)
    fail(breakers, 4)
    assert breakers.reset("a", actor="ann", reason="fresh start")
    assert sink.of(CircuitChanged) == []
    fail(breakers, 4)
    assert breakers.get_state("a") == "closed", "the four failures before were forgotten"


def test_a_snapshot_forgets_with_the_window_and_counts_living_probes(make: MakeBreakers) -> None:
    quick = BreakerPolicy(window_s=0.3, open_s=0.1, open_max_s=1, jitter=0, consecutive_failures=2)
    breakers = make(policy=quick)
    breakers.record_failure("b")
    assert breakers.snapshot("b")["failures"] == 1
    until(lambda: breakers.snapshot("b")["calls"] == 0, within_s=2)
    fail(breakers, 2)
    until(lambda: breakers.may_pass("a"), within_s=2)
    breakers.admit("a", lease_s=0.2)
    assert breakers.snapshot("a")["probes"] == 1
    until(lambda: breakers.snapshot("a")["probes"] == 0, within_s=2)
    assert breakers.snapshot("never-used") == {}
    assert set(breakers.snapshots()) == {"a", "b"}


# -- Redis does not answer -----------------------------------------------------------------------------------------


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


def test_processes_recover_within_two_seconds_when_redis_is_emptied(make: MakeBreakers, redis_url: str) -> None:
    breakers, other = make(policy=LONG), make(policy=LONG)
    fail(breakers)
    until(lambda: refused(other), within_s=1)
    with redis.Redis.from_url(redis_url) as operator:
        operator.flushall()
    began = time.monotonic()
    until(lambda: not refused(breakers) and not refused(other), within_s=2)
    fail(breakers)
    until(lambda: refused(other), within_s=2, what="the shared state counts again")
    assert time.monotonic() - began < 4


def test_emptying_redis_is_noticed_even_when_the_new_life_looks_like_the_old(
    make: MakeBreakers, redis_url: str
) -> None:
    """After a flush another circuit opens at once, so that the number of transitions is what it was."""
    breakers, other = make(), make()
    fail(breakers, 5, "a")
    until(lambda: refused(other, "a"), within_s=1)
    with redis.Redis.from_url(redis_url) as operator:
        operator.flushall()
    fail(make(), 5, "b")
    until(lambda: not refused(other, "a") and refused(other, "b"), within_s=2)
    fail(other, 5, "a")
    assert other.get_state("a") == "open", "outcomes are counted under the new life's epoch"


# -- fork ----------------------------------------------------------------------------------------------------------


def test_a_forked_child_uses_the_breakers_it_inherited(redis_url: str) -> None:
    """In a process of its own: forking with threads running is what prefork does, and pytest is no place for it."""
    script = """
        import os, sys, time, warnings
        # Python 3.12+ warns of any fork with threads; that it works here is the point of this test.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers, CircuitOpenError
        breakers = Breakers.from_url(sys.argv[1])
        breakers.admit("a").settle()
        breakers.record_success("a")
        children = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                for _ in range(3):
                    breakers.record_failure("a")
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    try:
                        breakers.admit("a").settle(TimeoutError())
                    except CircuitOpenError:
                        os._exit(0)
                os._exit(1)
            children.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        deadline = time.monotonic() + 5
        while breakers.flows("a") and time.monotonic() < deadline:
            time.sleep(0.01)
        print(codes, breakers.get_state("a"), breakers.flows("a"), flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == "[0, 0] open False"


def test_a_child_forked_while_other_threads_use_the_breakers_is_not_locked_out(redis_url: str) -> None:
    script = """
        import faulthandler, os, sys, threading, warnings
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers
        breakers = Breakers.from_url(sys.argv[1])
        stop = threading.Event()
        def work():
            while not stop.is_set():
                breakers.call("a", lambda: None)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                faulthandler.dump_traceback_later(10, exit=True)
                breakers.call("a", lambda: None)
                breakers.flush()
                os._exit(0)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads: thread.join()
        print(codes, flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == str([0] * 10)
