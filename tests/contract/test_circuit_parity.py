"""One circuit, two implementations: `machine.py` and `circuit.lua` on a real Redis answer every operation alike.

Hypothesis invents the histories of several clients; `pair.py` compares the answers, `written.py` what Redis holds.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from resilience.breaker.machine import FORCES, Action, Circuit, Outcome, State
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import BUCKETS
from resilience.local.redis_server import RedisServer
from tests.contract.pair import Pair

_WORKERS = st.sampled_from(["w1", "w2", "w3"])
_PERMITS = st.sampled_from(["p1", "p2", "p3", "p4"])
_RESULTS = st.sampled_from(["success", "success", "slow", "failure", "limited", "neutral"])
_JITTER = st.floats(0, 1, exclude_max=True)
_LEASES_MS = st.one_of(st.sampled_from([1, 60_000]), st.integers(1, 4_000))
_TTLS_MS = st.one_of(st.sampled_from([None, 1, 5_000]), st.integers(1, 9_000))
_NEVER = 99
"""So many failures or calls that the rule cannot be met: a window that fills instead of opening the circuit."""
_POLICIES = st.builds(
    lambda row, share, open_s, times, window_s, ratios, slow_call_s, more_calls, ramp_s: BreakerPolicy(
        consecutive_failures=row[0], failure_ratio=ratios[0], rate_limit_ratio=ratios[1], slow_ratio=ratios[2],
        slow_call_s=slow_call_s, window_s=window_s, window_calls=None if more_calls is None else row[1] + more_calls,
        minimum_calls=row[1], open_s=open_s, open_max_s=open_s * times, jitter=share, half_open_permits=row[2],
        success_threshold=row[3], ramp_s=ramp_s,
    ),
    st.tuples(
        st.sampled_from([1, 2, 3, 4, _NEVER]), st.sampled_from([1, 2, 5, 9, _NEVER]),
        st.integers(1, 3), st.integers(1, 3),
    ),
    st.floats(0, 1), st.floats(0.001, 5), st.floats(1, 40), st.floats(0.1, 7), st.tuples(*[st.floats(0.01, 1)] * 3),
    st.sampled_from([None, 1.0]), st.sampled_from([None, None, 0, 3]), st.sampled_from([0.0, 0.5, 3.0]),
)  # fmt: skip


class Twins(RuleBasedStateMachine):
    """The same operations on both sides. Rules that lead somewhere in several steps make rare states frequent."""

    url: ClassVar[str]

    @initialize(policy=_POLICIES, start_ms=st.integers(0, 2_000_000_000_000))
    def begin(self, policy: BreakerPolicy, start_ms: int) -> None:
        self.pair = Pair(self.url, policy, start_ms)

    def teardown(self) -> None:
        if hasattr(self, "pair"):  # an example may end before it begins
            self.pair.close()

    @property
    def circuit(self) -> Circuit:
        return self.pair.circuit

    @rule(policy=_POLICIES)
    def change_policy(self, policy: BreakerPolicy) -> None:
        self.pair.policy = policy

    @rule(step=st.one_of(st.sampled_from([0, 1, -1, -300, -600_000, -4_000_000, 10, 600_000]), st.integers(0, 8_000)))
    def wait(self, step: int) -> None:
        self.pair.now = max(0, self.pair.now + step)

    @rule(really=st.sampled_from([False, False, False, True]))
    def stay_quiet_for_a_week(self, really: bool) -> None:
        if really:
            self.pair.stay_quiet_for_a_week()

    @rule(really=st.sampled_from([False, False, True]), circuit=st.booleans())
    def memory_runs_out(self, really: bool, circuit: bool) -> None:
        if really and circuit:
            self.pair.evict_circuit()
        elif really:
            self.pair.evict_index()

    # -- calls -----------------------------------------------------------------------------------------------------

    @rule(
        worker=_WORKERS, successes=st.integers(0, 6), failure=st.booleans(), jitter=_JITTER,
        slow=st.integers(0, 6), limited=st.booleans(), slow_failure=st.booleans(),
    )  # fmt: skip
    def record(
        self, worker: str, successes: int, failure: bool, jitter: float, slow: int, limited: bool, slow_failure: bool
    ) -> None:
        slow = min(slow, successes)
        self.pair.record(
            Outcome(self.circuit.epoch, worker, successes, failure, "", slow, limited, slow_failure), jitter
        )

    @rule(
        worker=_WORKERS,
        buckets=st.lists(st.sampled_from([0, 0, 0.5, 1, 1, 2, 11, 12, 13, -1, -13]), min_size=2, max_size=14),
        what=st.sampled_from(["success", "slow", "failure", "limited", "slow failure"]),
    )
    def let_traffic_flow_from_bucket_to_bucket(self, worker: str, buckets: list[float], what: str) -> None:
        """Calls of one kind, now and so many buckets of the window later: no count may get lost or stay too long."""
        for step in buckets:
            self.pair.now = max(0, self.pair.now + int(step * self.pair.policy.window_ms / BUCKETS))
            good = what in ("success", "slow")
            self.pair.record(
                Outcome(
                    self.circuit.epoch, worker, int(good), not good, slow=int(what == "slow"),
                    limited=what == "limited", slow_failure=what == "slow failure",
                ),
                0.5,
            )  # fmt: skip

    @rule(
        windows_s=st.lists(st.floats(0.1, 700), min_size=2, max_size=3), worker=_WORKERS, what=_RESULTS,
        steps=st.lists(st.integers(-2_000, 9_000), min_size=2, max_size=6),
    )  # fmt: skip
    def use_policies_with_different_windows_in_turns(
        self, windows_s: list[float], worker: str, what: str, steps: list[int]
    ) -> None:
        """As while a new policy is rolled out."""
        mine = self.pair.policy
        for step in steps:
            self.pair.now = max(0, self.pair.now + step)
            for window_s in windows_s:
                self.pair.policy = mine.model_copy(update={"window_s": window_s})
                self.pair.settle("", what, worker)
        self.pair.policy = mine

    @rule(worker=_WORKERS, jitter=_JITTER, times=st.integers(1, 9))
    def be_limited_in_a_row(self, worker: str, jitter: float, times: int) -> None:
        self.pair.be_limited(worker, times, jitter)

    @rule(worker=_WORKERS, jitter=_JITTER, times=st.integers(1, 5))
    def fail_in_a_row(self, worker: str, jitter: float, times: int) -> None:
        self.pair.fail(worker, times, jitter)

    @rule(permit=_PERMITS, lease_ms=_LEASES_MS)
    def admit(self, permit: str, lease_ms: int) -> None:
        self.pair.admit(permit, lease_ms)

    @rule(worker=_WORKERS, permit=_PERMITS, result=_RESULTS, jitter=_JITTER)
    def settle_any_permit(self, worker: str, permit: str, result: str, jitter: float) -> None:
        self.pair.settle(permit, result, worker, jitter)

    @rule(
        worker=_WORKERS, off=st.sampled_from([-2, -1, 1]), failure=st.booleans(),
        permit=st.one_of(_PERMITS, st.just("")),
    )  # fmt: skip
    def record_under_another_epoch(self, worker: str, off: int, failure: bool, permit: str) -> None:
        self.pair.record(Outcome(self.circuit.epoch + off, worker, 1, failure, permit), 0.5)

    # -- probes ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.circuit.state is not State.HALF_OPEN)
    @rule(jitter=_JITTER, permit=_PERMITS)
    def break_it_and_wait_for_a_probe(self, jitter: float, permit: str) -> None:
        policy = self.pair.policy
        for worker in ("w1", "w2") * max(policy.consecutive_failures % _NEVER, policy.minimum_calls % _NEVER):
            self.pair.fail(worker, 1, jitter)
        if self.circuit.state is State.OPEN:
            self.pair.now = max(self.pair.now, self.circuit.until_ms)
            self.pair.admit(permit, 60_000)

    @precondition(lambda self: self.circuit.state in (State.OPEN, State.HALF_OPEN))
    @rule(results=st.lists(_RESULTS, min_size=1, max_size=4), jitter=_JITTER)
    def probe_it(self, results: list[str], jitter: float) -> None:
        for number, result in enumerate(results):
            if self.circuit.state is State.OPEN:
                self.pair.now = max(self.pair.now, self.circuit.until_ms)
            if self.pair.admit(f"probe{number}", 60_000):
                self.pair.settle(f"probe{number}", result, "w1", jitter)

    @precondition(lambda self: self.circuit.permits)
    @rule(which=st.integers(0, 2), result=_RESULTS, jitter=_JITTER)
    def settle_a_permit_that_was_given(self, which: int, result: str, jitter: float) -> None:
        permit, _ = self.circuit.permits[which % len(self.circuit.permits)]
        self.pair.settle(permit, result, "w1", jitter)

    @precondition(lambda self: self.circuit.permits)
    @rule(short_by=st.integers(0, 1), settle=st.booleans())
    def settle_or_ask_when_a_lease_ends(self, short_by: int, settle: bool) -> None:
        permit, expiry = min(self.circuit.permits, key=lambda held: held[1])
        self.pair.now = max(self.pair.now, expiry - short_by)
        if settle:
            self.pair.settle(permit, "success")
        else:
            self.pair.admit("newcomer", 1_000)

    # -- operators, and the ends of states -------------------------------------------------------------------------

    @rule(action=st.sampled_from(Action), off=st.sampled_from([None, 0, 0, 1, -1]), ttl_ms=_TTLS_MS)
    def an_operator_acts(self, action: Action, off: int | None, ttl_ms: int | None) -> None:
        self.pair.order(action, ttl_ms, off)

    @rule(
        action=st.sampled_from(list(FORCES)), ttl_ms=_TTLS_MS, short_by=st.integers(0, 1),
        then=st.sampled_from(["admit", "record", "auto"]),
    )  # fmt: skip
    def force_it_and_look_again_around_its_end(
        self, action: Action, ttl_ms: int | None, short_by: int, then: str
    ) -> None:
        self.pair.order(action, ttl_ms)
        self.pair.now = max(self.pair.now, self.circuit.until_ms - short_by)
        if then == "auto":
            self.pair.order(Action.AUTO)
        elif then == "admit":
            self.pair.admit("p1", 60_000)
        else:
            self.pair.fail()

    @precondition(lambda self: self.circuit.until_ms)
    @rule(short_by=st.integers(0, 1), fails=st.booleans())
    def wait_until_its_state_or_ramp_ends(self, short_by: int, fails: bool) -> None:
        self.pair.now = max(0, self.circuit.until_ms - short_by)
        for worker in ("w1", "w2") * (self.pair.policy.consecutive_failures % _NEVER if fails else 0):
            self.pair.fail(worker)


@pytest.mark.timeout(120)
def test_the_machine_and_the_script_answer_alike(redis_server: RedisServer) -> None:
    Twins.url = redis_server.url()
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
