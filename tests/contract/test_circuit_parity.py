"""One circuit, two implementations: `machine.py` and `circuit.lua` on a real Redis answer every operation alike.

Hypothesis invents the histories. Time and jitter are arguments on both sides, so equal means equal to the millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from resilience.breaker import machine
from resilience.breaker.machine import Action, Circuit, Outcome, State, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import NO_END, CircuitStore, Order, Reply, numbers_of
from resilience.breaker.window import Ring
from resilience.local.redis_server import RedisServer
from resilience.shared_redis import SharedRedis

_WORKERS = st.sampled_from(["w1", "w2", "w3"])
_PERMITS = st.sampled_from(["p1", "p2", "p3", "p4"])
_RESULTS = st.sampled_from(["success", "success", "failure", "neutral"])
_JITTER = st.floats(0, 1, exclude_max=True)
_POLICIES = st.builds(
    lambda row, share, open_s, times, window_s, ratios, slow_call_s, more_calls, ramp_s: BreakerPolicy(
        consecutive_failures=row[0], failure_ratio=ratios[0], rate_limit_ratio=ratios[1], slow_ratio=ratios[2],
        slow_call_s=slow_call_s, window_s=window_s, window_calls=None if more_calls is None else row[1] + more_calls,
        minimum_calls=row[1], open_s=open_s, open_max_s=open_s * times, jitter=share, half_open_permits=row[2],
        success_threshold=row[3], ramp_s=ramp_s,
    ),
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)),
    st.floats(0, 1), st.floats(0.001, 5), st.floats(1, 9), st.floats(0.1, 7), st.tuples(*[st.floats(0.01, 1)] * 3),
    st.sampled_from([None, 1.0]), st.sampled_from([None, None, 0, 3]), st.sampled_from([0.0, 0.5, 3.0]),
)  # fmt: skip
_ACTIONS = st.sampled_from(Action)


class Twins(RuleBasedStateMachine):
    """The same operations on the pure machine and on the script; every answer is compared."""

    client: ClassVar[redis.Redis]
    numbers: ClassVar[Iterator[int]] = count()

    @initialize(policy=_POLICIES, start_ms=st.integers(0, 2_000_000_000_000))
    def begin(self, policy: BreakerPolicy, start_ms: int) -> None:
        self.store = CircuitStore(SharedRedis(self.client, "parity"))
        self.name = f"circuit{next(self.numbers)}"
        self.policy, self.now = policy, start_ms
        self.circuit = Circuit()
        self.used_policy = ""

    @rule(policy=_POLICIES)
    def change_policy(self, policy: BreakerPolicy) -> None:
        self.policy = policy

    @rule(step=st.one_of(st.sampled_from([0, 1, -1, -300, -600_000, 10, 600_000]), st.integers(0, 8_000)))
    def wait(self, step: int) -> None:
        self.now = max(0, self.now + step)

    @precondition(lambda self: self.circuit.until_ms)
    @rule(short_by=st.integers(0, 1))
    def wait_until_it_may_be_probed_or_its_state_or_ramp_ends(self, short_by: int) -> None:
        self.now = self.circuit.until_ms - short_by

    @precondition(lambda self: self.circuit.permits)
    @rule(short_by=st.integers(0, 1), settle=st.booleans())
    def settle_or_ask_when_a_lease_ends(self, short_by: int, settle: bool) -> None:
        permit, expiry = min(self.circuit.permits, key=lambda held: held[1])
        self.now = max(self.now, expiry - short_by)
        if settle:
            self._settle("w1", permit, "success", 0.0)
        else:
            self._admit("newcomer", 1_000)

    @rule(
        worker=_WORKERS, successes=st.integers(0, 6), failure=st.booleans(), jitter=_JITTER,
        slow=st.integers(0, 6), limited=st.booleans(), slow_failure=st.booleans(),
    )  # fmt: skip
    def record(
        self, worker: str, successes: int, failure: bool, jitter: float, slow: int, limited: bool, slow_failure: bool
    ) -> None:
        slow = min(slow, successes)
        self._record(Outcome(self.circuit.epoch, worker, successes, failure, "", slow, limited, slow_failure), jitter)

    @rule(worker=_WORKERS, jitter=_JITTER, times=st.integers(1, 9))
    def be_limited_in_a_row(self, worker: str, jitter: float, times: int) -> None:
        for _ in range(times):
            self._record(Outcome(self.circuit.epoch, worker, failure=True, limited=True), jitter)

    @rule(worker=_WORKERS, jitter=_JITTER, times=st.integers(1, 5))
    def fail_in_a_row(self, worker: str, jitter: float, times: int) -> None:
        for _ in range(times):
            self._record(Outcome(self.circuit.epoch, worker, failure=True), jitter)

    @precondition(lambda self: self.circuit.state is not State.HALF_OPEN)
    @rule(jitter=_JITTER, permit=_PERMITS)
    def break_it_and_wait_for_a_probe(self, jitter: float, permit: str) -> None:
        for worker in ("w1", "w2") * max(self.policy.consecutive_failures, self.policy.minimum_calls):
            self._record(Outcome(self.circuit.epoch, worker, failure=True), jitter)
        if self.circuit.state is State.OPEN:
            self.now = max(self.now, self.circuit.until_ms)
            self._admit(permit, 60_000)

    @precondition(lambda self: self.circuit.permits)
    @rule(which=st.integers(0, 2), result=_RESULTS, jitter=_JITTER)
    def settle_a_permit_that_was_given(self, which: int, result: str, jitter: float) -> None:
        permit, _ = self.circuit.permits[which % len(self.circuit.permits)]
        self._settle("w1", permit, result, jitter)

    @rule(worker=_WORKERS, permit=_PERMITS, result=_RESULTS, jitter=_JITTER)
    def settle_any_permit(self, worker: str, permit: str, result: str, jitter: float) -> None:
        self._settle(worker, permit, result, jitter)

    @rule(
        worker=_WORKERS,
        off=st.sampled_from([-2, -1, 1]),
        failure=st.booleans(),
        permit=st.one_of(_PERMITS, st.just("")),
    )
    def record_under_another_epoch(self, worker: str, off: int, failure: bool, permit: str) -> None:
        self._record(Outcome(self.circuit.epoch + off, worker, 1, failure, permit), 0.5)

    @rule(permit=_PERMITS, lease_ms=st.one_of(st.sampled_from([1, 60_000]), st.integers(1, 4_000)))
    def admit(self, permit: str, lease_ms: int) -> None:
        self._admit(permit, lease_ms)

    def _admit(self, permit: str, lease_ms: int) -> None:
        self.circuit, granted, transition = machine.admit(self.circuit, permit, lease_ms, self.policy, self.now)
        reply = self.store.admit(self.name, self.policy, permit, lease_ms / 1000, now_ms=self.now)
        self._compare(reply, granted, transition)

    @rule(
        action=_ACTIONS,
        off=st.sampled_from([None, 0, 0, 1, -1]),
        ttl_ms=st.one_of(st.sampled_from([None, 1, 5_000]), st.integers(1, 9_000)),
    )
    def an_operator_acts(self, action: Action, off: int | None, ttl_ms: int | None) -> None:
        asked = None if off is None else self.circuit.epoch + off
        order = Order(action, "ann", "why", asked, None if ttl_ms is None else ttl_ms / 1000)
        transition = None
        if not off:
            self.circuit, transition = machine.obey(self.circuit, action, order.shown, ttl_ms or 0, self.now)
        reply = self.store.order(self.name, self.policy, order, now_ms=self.now)
        self._compare(reply, not off, transition, with_policy=False)

    def _settle(self, worker: str, permit: str, result: str, jitter: float) -> None:
        outcome = Outcome(self.circuit.epoch, worker, int(result == "success"), result == "failure", permit)
        self._record(outcome, jitter)

    def _record(self, outcome: Outcome, jitter: float) -> None:
        before = self.circuit
        self.circuit, transition = machine.record(before, outcome, self.policy, self.now, jitter)
        reply = self.store.record(self.name, self.policy, outcome, jitter, now_ms=self.now)
        counted = self.circuit is not before and not self._time_was_over(before)
        self._compare(reply, counted, transition)

    def _time_was_over(self, before: Circuit) -> bool:
        """A forced state ended with this call: the outcome was admitted under another epoch."""
        return before.state in machine.FORCED and 0 < before.until_ms <= self.now

    def _compare(self, reply: Reply, granted: bool, transition: Transition | None, with_policy: bool = True) -> None:
        used = numbers_of(self.policy) if with_policy else self.used_policy
        assert reply == Reply(
            granted=granted,
            state=self.circuit.state,
            epoch=self.circuit.epoch,
            remaining_ms=max(0, self.circuit.until_ms - self.now) if self.circuit.until_ms else NO_END,
            old=transition.old if transition else None,
            reason=transition.reason if transition else "",
            former_policy=self.used_policy if used != self.used_policy else "",
        )
        self.used_policy = used
        row = self.store.describe([self.name], self.now)[self.name]
        assert Ring.read(row.get("window", "")).total() == self.circuit.ring.total()
        assert row.get("calls", "") == self.circuit.calls
        assert int(row.get("streak", 0)) == self.circuit.streak
        assert int(row.get("opens", 0)) == self.circuit.opens
        assert int(row.get("passed", 0)) == self.circuit.probes_passed
        assert int(row["held"]) == sum(expiry > self.now for _, expiry in self.circuit.permits)


@pytest.mark.timeout(120)
def test_the_machine_and_the_script_answer_alike(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url(), decode_responses=True) as client:
        client.flushall()
        Twins.client = client
        run_state_machine_as_test(
            Twins,
            settings=settings(
                max_examples=150,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
