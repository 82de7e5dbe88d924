"""One circuit for every process: what one learns, all know; probes are counted together, operators obeyed by all."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
import redis

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.testing import RecordingSink, until
from signals.events import CircuitChanged, Result
from tests.integration.breaker_kit import SHORT, MakeBreakers, Turns, fail, process, refused, says


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


# -- half-open ------------------------------------------------------------------------------------------------------


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


def test_a_slow_probe_keeps_its_permit_beyond_its_lease_while_its_process_lives(make: MakeBreakers) -> None:
    single = SHORT.model_copy(update={"half_open_permits": 1, "success_threshold": 1})
    breakers, other = make(policy=single), make(policy=single)
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    permit = breakers.admit("a", lease_s=1.2)
    began = time.monotonic()
    until(lambda: not refused(other) or time.monotonic() - began > 2.5, within_s=5)
    assert time.monotonic() - began > 2.5, "nobody else took the place, two leases long"
    permit.settle()
    assert breakers.get_state("a") == "closed"


def test_a_slow_probe_takes_no_place_in_the_next_half_open(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers, other = make(policy=SHORT, sink=sink), make(policy=SHORT, sink=sink)
    fail(breakers)
    until(lambda: breakers.may_pass("a"), within_s=2)
    slow = breakers.admit("a", lease_s=0.6)
    until(lambda: other.may_pass("a") and not other.flows("a"), within_s=2)
    other.admit("a").settle(TimeoutError())

    turns = Turns(breakers)
    until(lambda: turns.seen >= 4, what="the watcher that renews leases turned often enough to ask")

    assert breakers.get_state("a") == "open", "nobody asked for a probe yet"
    slow.settle()
    assert [event.new for event in sink.of(CircuitChanged)] == ["open", "half_open", "open"], "every move was said"
    granted = [other.admit("a") for _ in range(3)]
    assert len(granted) == 3, "the slow one's place is free"


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


def test_a_death_counts_for_the_worker_that_died_not_for_who_found_it(make: MakeBreakers) -> None:
    """Where several workers feed a circuit, failures of one do not open it: so it matters whose they are."""
    finder, other = make(), make()
    other.record_success("a")
    for _ in range(5):
        finder.settle_lost("a", "", Result.FAILURE, worker="w1")
    assert finder.get_state("a") == "closed"
    finder.settle_lost("a", "", Result.FAILURE, worker="w2")
    assert finder.get_state("a") == "open"


# -- operators ------------------------------------------------------------------------------------------------------


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


def test_an_order_needs_somebody_and_a_reason_and_tells_no_secret(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers = make(sink=sink)
    for actor, reason in (("", "why"), ("ann", " \n ")):
        with pytest.raises(ValueError, match="force-open needs an actor and a reason"):
            breakers.force_open("a", actor=actor, reason=reason)
    assert breakers.audit() == []
    breakers.force_open("a", actor="ann", reason="redis://:hunter2@db/0 is\nslow")
    [row] = breakers.audit()
    [event] = sink.of(CircuitChanged)
    assert (row["actor"], event.actor) == ("ann", "ann")
    for text in (row["reason"], event.reason, breakers.snapshot("a")["reason"]):
        assert "hunter2" not in text
        assert "\n" not in text
        assert text.endswith(" is slow")


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


def test_a_snapshot_tells_how_long_a_state_lasts_by_what_ends_it(make: MakeBreakers) -> None:
    breakers = make()

    def times() -> list[float | None]:
        shown = breakers.snapshot("a")
        return [shown["probe_in_s"], shown["ramp_s"], shown["forced_for_s"]]

    breakers.record_success("a")
    assert times() == [0.0, 0.0, None]
    fail(breakers)
    assert times() == pytest.approx([60.0, 0.0, None], abs=2)
    breakers.force_open("a", actor="ann", reason="maintenance", ttl_s=600)
    assert times() == pytest.approx([0.0, 0.0, 600.0], abs=2)
    breakers.metrics_only("a", actor="ann", reason="trial")
    assert times() == [0.0, 0.0, None]
