"""`with_retry` through circuits on a real Redis: admission of each attempt, failing fast, the fleet's budget."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery, current_task

from resilience import BreakerPolicy, Breakers, CircuitOpenError, backoff, with_retry
from resilience.breaker.calls import CircuitCalls
from resilience.errors.taxonomy import MATRIX, ErrorCategory
from resilience.local.redis_server import RedisServer
from resilience.retry.budget import WINDOW_S, BudgetRule
from resilience.retry.fleet import RetryBudgets
from resilience.shared_redis import SharedRedis, connect
from tests.integration.breaker_kit import BOUND_S, TIMEOUT_S, MakeBreakers, process, says
from tests.timing import timed

NOTHING = BudgetRule(ratio=0, per_s=0)
PATIENT = BreakerPolicy(consecutive_failures=100)
FAST = backoff.custom(lambda _: 0.001)
BOTH = pytest.mark.parametrize("kind", ["plain", "async"])


class Failing:
    """Raises ConnectionError as many times as it is told, then answers; `calls` counts."""

    def __init__(self, times: int = 10**9) -> None:
        self.times = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise ConnectionError("no upstream")
        return "there"


def call(kind: str, function: Callable[[], Any], **options: Any) -> Any:
    options = {"backoff": FAST, **options}
    if kind == "plain":
        return with_retry(function, **options)()

    async def as_coroutine() -> Any:
        return function()

    return asyncio.run(with_retry(as_coroutine, **options)())


def counted(breakers: Breakers, name: str = "a") -> tuple[int, int]:
    """Successes and failures that the circuit recorded."""
    breakers.flush()
    row = breakers.snapshot(name)
    return row["calls"] - row["failures"], row["failures"]


# -- circuits ------------------------------------------------------------------------------------------------------


@BOTH
def test_each_attempt_is_admitted_and_settled(make: MakeBreakers, kind: str) -> None:
    breakers = make(policy=PATIENT)
    assert call(kind, Failing(2), circuit=breakers.circuit("a")) == "there"
    assert counted(breakers) == (1, 2)


@BOTH
def test_an_attempt_that_takes_too_long_is_a_failure_of_the_circuit(make: MakeBreakers, kind: str) -> None:
    breakers = make(policy=PATIENT)
    options: dict[str, Any] = {
        "circuit": breakers.circuit("a"), "timeout_s": 0.05, "attempts": 2, "backoff": FAST,
    }  # fmt: skip

    def run() -> None:
        if kind == "plain":
            with_retry(time.sleep, **options)(0.3)
        else:
            asyncio.run(with_retry(asyncio.sleep, **options)(0.3))

    with pytest.raises(TimeoutError):
        run()
    assert counted(breakers) == (0, 2)


@BOTH
def test_when_the_circuit_opens_no_further_attempt_is_made(make: MakeBreakers, kind: str) -> None:
    breakers = make(policy=BreakerPolicy(consecutive_failures=3, open_s=60))
    failing = Failing()
    began = time.monotonic()
    with pytest.raises(CircuitOpenError):
        call(kind, failing, circuit=breakers.circuit("a"), attempts=50)
    assert failing.calls == 3
    assert time.monotonic() - began < 2


@BOTH
def test_a_refusal_is_raised_at_once(make: MakeBreakers, kind: str) -> None:
    breakers = make()
    breakers.force_open("a", actor="ann", reason="test")
    failing = Failing()

    def run() -> None:
        with pytest.raises(CircuitOpenError) as caught:
            call(kind, failing, circuit=breakers.circuit("a"), backoff=backoff.linear(first_s=1))
        assert caught.value.name == "a"

    assert timed(run) < BOUND_S
    assert failing.calls == 0


@BOTH
def test_a_refusal_is_waited_for_when_the_circuit_may_be_probed_by_the_end_of_the_wait(
    make: MakeBreakers, kind: str
) -> None:
    breakers = make(policy=BreakerPolicy(consecutive_failures=1, open_s=0.2, jitter=0))
    breakers.record_failure("a")
    options: dict[str, Any] = {"circuit": breakers.circuit("a"), "attempts": 2}
    failing = Failing(0)
    assert call(kind, failing, backoff=backoff.custom(lambda _: 0.3), **options) == "there"
    breakers.force_open("a", actor="ann", reason="test", ttl_s=0.2)
    with pytest.raises(CircuitOpenError):
        call(kind, failing, backoff=backoff.custom(lambda _: 0.3), deadline_s=0.25, **options)
    assert failing.calls == 1


@BOTH
def test_a_refusal_that_a_client_wrapped_is_one_too(make: MakeBreakers, kind: str) -> None:
    breakers = make()
    breakers.force_open("a", actor="ann", reason="test", ttl_s=50)
    calls: list[int] = []

    def pay() -> None:
        calls.append(1)
        try:
            breakers.call("a", lambda: None)
        except CircuitOpenError as error:
            raise ConnectionError("payment failed") from error

    began = time.monotonic()
    with pytest.raises(ConnectionError):
        call(kind, pay)
    assert calls == [1]
    assert time.monotonic() - began < 1


def test_who_is_cancelled_in_a_probe_gives_its_place_back(make: MakeBreakers) -> None:
    breakers = make(policy=BreakerPolicy(consecutive_failures=1, open_s=0.05, jitter=0, half_open_permits=1))
    breakers.record_failure("a")
    time.sleep(0.06)  # the circuit's own time, which no condition shows before somebody asks

    async def main() -> None:
        began = asyncio.Event()

        async def hang() -> None:
            began.set()
            await asyncio.sleep(5)

        task = asyncio.ensure_future(with_retry(hang, circuit=breakers.circuit("a"))())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert breakers.get_state("a") == "half_open"
    breakers.admit("a").settle()


def test_a_circuit_by_name_is_the_current_apps_with_its_settings(redis_url: str) -> None:
    script = """
        import sys
        from resilience import Breakers, Resilience, backoff, with_retry

        @with_retry(circuit="a", backoff=backoff.custom(lambda _: 0))
        def fetch():
            calls.append(1)
            raise ConnectionError

        from celery import Celery
        app = Celery("shop", broker=sys.argv[1], set_as_current=True)
        app.conf.resilience_retry_budget_per_s = 0.1
        app.conf.resilience_retry_budget_ratio = 0
        breakers = Resilience(app).breakers
        calls = []
        for _ in range(3):
            try:
                fetch()
            except ConnectionError:
                pass
        print(len(calls), breakers.snapshot("a")["state"], flush=True)
        breakers.close()
    """
    with process(script, redis_url) as child:
        assert says(child) == "4 closed", "a tenth of a retry a second is one in the window"


@BOTH
def test_the_matrix_of_the_breakers_says_what_is_tried_again(redis_url: str, kind: str) -> None:
    row = replace(MATRIX[ErrorCategory.CONNECTION], transient=False)
    breakers = Breakers(
        SharedRedis(connect(redis_url, TIMEOUT_S), "celeriac"), matrix={**MATRIX, ErrorCategory.CONNECTION: row}
    )
    failing = Failing()
    with pytest.raises(ConnectionError):
        call(kind, failing, circuit=breakers.circuit("a"))
    breakers.close()
    assert failing.calls == 1


# -- the budget ----------------------------------------------------------------------------------------------------


@BOTH
def test_over_budget_the_error_is_raised_at_once_and_says_so(make: MakeBreakers, kind: str) -> None:
    breakers = make(policy=PATIENT)
    RetryBudgets.of(breakers, NOTHING)
    failing = Failing()
    with pytest.raises(ConnectionError, match="no upstream") as caught:
        call(kind, failing, circuit=breakers.circuit("a"), backoff=backoff.linear(first_s=10))
    assert failing.calls == 1
    if sys.version_info >= (3, 11):
        [note] = caught.value.__notes__
        assert note.endswith("attempt 1 of 3 failed, no further one: the retry budget of circuit a is used up")


@BOTH
def test_the_budget_can_be_switched_off(make: MakeBreakers, kind: str, redis_url: str) -> None:
    breakers = make(policy=PATIENT)
    RetryBudgets.of(breakers, NOTHING)
    failing = Failing()
    with pytest.raises(ConnectionError):
        call(kind, failing, circuit=breakers.circuit("a"), budget=False)
    breakers.flush()
    assert failing.calls == 3
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists("celeriac:v1:budget:a")


@BOTH
def test_a_budget_of_other_breakers_may_be_given(make: MakeBreakers, kind: str) -> None:
    budgets = RetryBudgets.of(make(), NOTHING)
    failing = Failing()
    with pytest.raises(ConnectionError):
        call(kind, failing, circuit=make(policy=PATIENT).circuit("a"), budget=budgets)
    assert failing.calls == 1


def test_a_budget_without_a_circuit_is_refused(make: MakeBreakers) -> None:
    with pytest.raises(ValueError, match="a budget belongs to a circuit: give circuit= too"):
        with_retry(budget=RetryBudgets.of(make()))


@BOTH
def test_a_call_counts_once_however_often_it_is_tried(make: MakeBreakers, kind: str, redis_url: str) -> None:
    breakers = make(policy=PATIENT)
    circuit: CircuitCalls = breakers.circuit("a")
    with pytest.raises(ConnectionError):
        call(kind, Failing(), circuit=circuit)
    call(kind, Failing(0), circuit=circuit)
    breakers.force_open("a", actor="ann", reason="test")
    with pytest.raises(CircuitOpenError):
        call(kind, Failing(), circuit=circuit)
    breakers.flush()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        _, *ring = map(int, str(client.get("celeriac:v1:budget:a")).split())
    assert (sum(ring[::2]), sum(ring[1::2])) == (2, 2), "calls that were let through, retries"


@BOTH
def test_without_redis_calls_are_tried_again_within_a_budget_of_the_process(
    make: MakeBreakers, own_redis: RedisServer, kind: str
) -> None:
    breakers = make(own_redis.url(), policy=PATIENT)
    circuit = breakers.circuit("a")
    call(kind, Failing(0), circuit=circuit)
    own_redis.kill()
    failing = Failing(2)

    def run() -> None:
        assert call(kind, failing, circuit=circuit) == "there"

    assert timed(run) < BOUND_S + 0.25


@BOTH
def test_no_attempt_begins_after_the_deadline_although_the_budget_was_slow_to_answer(
    make: MakeBreakers, own_redis: RedisServer, kind: str
) -> None:
    budgets = RetryBudgets.of(make(own_redis.url()))
    failing = Failing()
    circuit = make(policy=PATIENT).circuit("a")
    call(kind, Failing(0), circuit=circuit)
    own_redis.freeze()

    def run() -> None:
        with pytest.raises(ConnectionError):
            call(kind, failing, circuit=circuit, budget=budgets, backoff=backoff.custom(lambda _: 0.3), deadline_s=0.4)

    assert timed(run) < 0.25 + 0.3, "it waits for no longer than the deadline"
    assert failing.calls == 1
    own_redis.thaw()


STORM = """
    import asyncio, sys
    from resilience import BreakerPolicy, Breakers, backoff, with_retry
    never_opens = BreakerPolicy(minimum_calls=1_000_000, consecutive_failures=10_000)
    breakers = Breakers.from_url(sys.argv[1], policies={"a": never_opens})
    calls = []

    @with_retry(circuit=breakers.circuit("a"), backoff=backoff.custom(lambda _: 0), budget=sys.argv[2] == "on")
    def fetch():
        calls.append(1)
        raise ConnectionError

    breakers.admit("a").settle()
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(100):
        try:
            fetch()
        except ConnectionError:
            pass
    print(len(calls), flush=True)
    breakers.close()
"""


def storm(url: str, processes: int, budget: str) -> tuple[int, float]:
    """100 calls in each of so many processes while the upstream is down: upstream calls made, seconds it took."""
    with ExitStack() as stack:
        children: list[subprocess.Popen[str]] = [
            stack.enter_context(process(textwrap.dedent(STORM), url, budget)) for _ in range(processes)
        ]
        assert [says(child) for child in children] == ["ready"] * processes
        began = time.monotonic()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(int(says(child)) for child in children), time.monotonic() - began


def test_while_the_upstream_is_down_four_processes_make_a_fifth_more_calls_not_three_times_as_many(
    redis_url: str,
) -> None:
    calls, took_s = storm(redis_url, 4, "on")
    # 400 calls afford 80 retries; a window that turned in between, as on a stalled machine, 30 more
    assert 400 + 30 <= calls <= 400 + 80 + 30 * int(took_s / WINDOW_S)


def test_the_same_storm_without_a_budget_triples_the_calls(redis_url: str) -> None:
    assert storm(redis_url, 4, "off")[0] == 1200


def test_inside_a_task_an_attempt_sees_the_task_and_its_request() -> None:
    """Celery keeps both per thread, and an attempt with a time limit runs on a thread of its own."""
    app = Celery("inside", broker="memory://", set_as_current=False)

    @app.task(bind=True, shared=False)
    def outer(self: Any) -> list[Any]:
        def inner() -> list[Any]:
            return [self.request.id, current_task.name, self.request.called_directly]

        return [*with_retry(inner, timeout_s=5.0)(), self.request.id]

    result = outer.apply(task_id="seven")
    assert result.get() == ["seven", outer.name, False, "seven"]
