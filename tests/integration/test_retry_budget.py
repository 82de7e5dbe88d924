"""Retry budgets on a real Redis, spent by real processes: what a fleet may retry, what it costs, life without Redis."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest
import redis

from resilience.local.redis_server import RedisServer
from resilience.retry.budget import WINDOW_S, BudgetRule
from resilience.retry.fleet import RetryBudgets
from resilience.testing import RecordingSink, until
from signals.events import StoreBack
from tests.integration.breaker_kit import BOUND_S, MakeBreakers, process, says

NOTHING = BudgetRule(ratio=0, per_s=0)
FLOOR = 30
"""Retries that a quiet circuit affords in a window, by the default rule."""


def granted(budgets: RetryBudgets, asked: int, circuit: str = "a") -> int:
    return sum(budgets.may_retry(circuit) for _ in range(asked))


def commands(client: redis.Redis) -> dict[str, int]:
    """How often which command was called since `config_resetstat`, what the test itself asks left out."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items() if "config" not in name}


# -- what a fleet may retry ----------------------------------------------------------------------------------------


def test_a_quiet_circuit_affords_three_retries_a_second(make: MakeBreakers) -> None:
    budgets, other = RetryBudgets.of(make()), RetryBudgets.of(make())
    assert granted(budgets, 20) + granted(other, 20) == FLOOR
    assert granted(other, 1, "b") == 1, "every circuit has its own"


def test_a_busy_circuit_affords_a_fifth_of_its_calls_whoever_made_them(make: MakeBreakers) -> None:
    breakers = make()
    budgets, other = RetryBudgets.of(breakers), RetryBudgets.of(make())
    for _ in range(400):
        budgets.called("a")
    breakers.flush()
    for _ in range(100):
        other.called("a")
    assert granted(other, 200) == 100, "the calls that waited here travelled with the first retry"


def test_of_gives_the_same_budgets_and_keeps_a_rule(make: MakeBreakers) -> None:
    breakers = make()
    assert RetryBudgets.of(breakers, NOTHING) is RetryBudgets.of(breakers)
    assert RetryBudgets.of(breakers).rule is NOTHING
    assert not RetryBudgets.of(breakers).may_retry("a")


def test_the_watcher_brings_calls_to_the_fleet_within_a_second(make: MakeBreakers) -> None:
    breakers = make()
    breakers.admit("a").settle()
    for _ in range(500):
        RetryBudgets.of(breakers).called("a")
    asking = RetryBudgets.of(make(), BudgetRule(ratio=0.2, per_s=0))
    until(lambda: asking.may_retry("a"), within_s=1.5)


def test_calls_that_waited_longer_than_the_window_count_by_share(
    make: MakeBreakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no circuit is used no watcher runs: an hour's calls must not afford an hour's retries at once."""
    budgets = RetryBudgets.of(make(), BudgetRule(ratio=0.5, per_s=0))
    began = time.monotonic()
    for _ in range(3600):
        budgets.called("a")
    monkeypatch.setattr(time, "monotonic", lambda: began + 360 * WINDOW_S)
    assert granted(budgets, 10) == 5


def test_eight_threads_spend_one_budget(make: MakeBreakers) -> None:
    budgets = RetryBudgets.of(make())
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(granted(budgets, 10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == FLOOR


# -- real processes ------------------------------------------------------------------------------------------------

STORM = """
    import sys
    from resilience import Breakers
    from resilience.retry.fleet import RetryBudgets
    breakers = Breakers.from_url(sys.argv[1])
    budgets = RetryBudgets.of(breakers)
    breakers.admit("a").settle()
    print("ready", flush=True)
    sys.stdin.readline()
    retries = 0
    for _ in range(100):
        budgets.called("a")
        retries += sum(sys.argv[2] == "off" or budgets.may_retry("a") for _ in range(2))
    print(retries, flush=True)
    breakers.close()
"""


def storm(url: str, processes: int, budget: str) -> tuple[int, float]:
    """100 calls in each of so many processes, each asking for two retries; the retries made, and seconds it took."""
    with ExitStack() as stack:
        children = [stack.enter_context(process(STORM, url, budget)) for _ in range(processes)]
        assert [says(child) for child in children] == ["ready"] * processes
        began = time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        retries = sum(int(says(child)) for child in children)
        return retries, time.monotonic() - began


def test_a_storm_of_six_processes_stays_within_the_budget(redis_url: str) -> None:
    retries, took_s = storm(redis_url, 6, "on")
    assert retries >= FLOOR
    # 600 calls afford 120 retries; a window that turned in between, as on a stalled machine, the floor once more
    assert retries <= 120 + FLOOR * int(took_s / WINDOW_S)


def test_the_same_storm_without_a_budget_is_ten_times_as_large(redis_url: str) -> None:
    retries, _ = storm(redis_url, 6, "off")
    assert retries == 1200


# -- what it costs -------------------------------------------------------------------------------------------------


def test_a_call_costs_no_command_and_a_retry_one(make: MakeBreakers, redis_url: str) -> None:
    budgets = RetryBudgets.of(make())
    budgets.may_retry("a")  # the script is known from here on
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        for _ in range(100):
            budgets.called("a")
        assert "evalsha" not in commands(client)
        budgets.may_retry("a")
        assert commands(client)["evalsha"] == 1
        client.config_resetstat()
        budgets.flush()
        assert "evalsha" not in commands(client), "nothing waits, nothing is sent"


def test_what_waits_for_many_circuits_is_sent_in_one_round_trip(make: MakeBreakers, redis_url: str) -> None:
    budgets = RetryBudgets.of(make())
    budgets.may_retry("c0")
    for number in range(50):
        budgets.called(f"c{number}")
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        before = client.info("stats")["total_reads_processed"]
        budgets.flush()
        assert commands(client)["evalsha"] == 50
        assert client.info("stats")["total_reads_processed"] - before < 10, "reads of the server, not commands"


def test_budgets_survive_a_redis_that_forgot_the_script(make: MakeBreakers, redis_url: str) -> None:
    breakers = make()
    budgets = RetryBudgets.of(breakers, BudgetRule(ratio=0.2, per_s=0))
    for number in range(100):
        budgets.called("a")
        budgets.called(f"b{number % 3}")
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        budgets.flush()
    assert granted(budgets, 50) == 20
    assert not breakers.link.away


def test_a_budget_dies_by_itself(make: MakeBreakers, redis_url: str) -> None:
    RetryBudgets.of(make()).may_retry("a")
    with redis.Redis.from_url(redis_url) as client:
        assert 10_000 < client.pttl("celeriac:v1:budget:a") <= 20_000


# -- without Redis, and after a fork -------------------------------------------------------------------------------


def test_without_redis_a_process_has_a_budget_of_its_own_and_waits_once(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    sink = RecordingSink()
    breakers = make(own_redis.url(), sink=sink)
    budgets = RetryBudgets.of(breakers)
    breakers.admit("a").settle()
    own_redis.freeze()
    began = time.monotonic()
    assert granted(budgets, 100) == FLOOR
    assert time.monotonic() - began < BOUND_S, "one wait for the store, then none"
    for _ in range(1000):
        budgets.called("a")
    assert granted(budgets, 1000) == 200 - FLOOR
    own_redis.thaw()
    until(lambda: sink.of(StoreBack), within_s=5)
    assert granted(budgets, 2 * FLOOR) == FLOOR, "the fleet's budget counts again"


def test_a_forked_child_sends_its_own_calls_and_leaves_the_parents_to_the_parent(redis_url: str) -> None:
    script = """
        import os, sys, warnings
        # Python 3.12+ warns of any fork with threads; that it works here is the point of this test.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers
        from resilience.retry.budget import BudgetRule
        from resilience.retry.fleet import RetryBudgets
        breakers = Breakers.from_url(sys.argv[1])
        budgets = RetryBudgets.of(breakers, BudgetRule(ratio=1, per_s=0))
        for _ in range(10): budgets.called("a")
        budgets._lock.acquire()  # as a thread of the parent may hold it at the very moment of the fork
        pid = os.fork()
        if pid == 0:
            for _ in range(5): budgets.called("a")
            os._exit(sum(budgets.may_retry("a") for _ in range(20)))
        budgets._lock.release()
        child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(child, sum(budgets.may_retry("a") for _ in range(20)), flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == "5 10"
