"""Circuits of the pure machine in the states that its tests begin with."""

from __future__ import annotations

from dataclasses import replace

from resilience.breaker import machine
from resilience.breaker.machine import Circuit, Outcome, State
from resilience.breaker.policy import BreakerPolicy

POLICY = BreakerPolicy(jitter=0.0)
NOW = 1_700_000_000_000


def told(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy = POLICY, now_ms: int = NOW) -> Circuit:
    return machine.record(circuit, outcome, policy, now_ms, 0.0)[0]


def fail(
    circuit: Circuit, worker: str = "w1", policy: BreakerPolicy = POLICY, now_ms: int = NOW, times: int = 1
) -> Circuit:
    for _ in range(times):
        circuit = told(circuit, Outcome(circuit.epoch, worker, failure=True), policy, now_ms)
    return circuit


def limit(circuit: Circuit, times: int = 1, policy: BreakerPolicy = POLICY, now_ms: int = NOW) -> Circuit:
    for _ in range(times):
        circuit = told(circuit, Outcome(circuit.epoch, "w1", failure=True, limited=True), policy, now_ms)
    return circuit


def succeed(
    circuit: Circuit,
    count: int = 1,
    worker: str = "w1",
    now_ms: int = NOW,
    *,
    slow: int = 0,
    policy: BreakerPolicy = POLICY,
) -> Circuit:
    return told(circuit, Outcome(circuit.epoch, worker, count, slow=slow), policy, now_ms)


def opened(opens: int = 1, policy: BreakerPolicy = POLICY, jitter: float = 0.0) -> Circuit:
    circuit = replace(Circuit(), opens=opens - 1, until_ms=NOW + 1)  # its ramp is not over: it never recovered
    for _ in range(policy.consecutive_failures):
        circuit = machine.record(circuit, Outcome(circuit.epoch, "w1", failure=True), policy, NOW, jitter)[0]
    assert circuit.state is State.OPEN
    return circuit


def half_open(*permits: str, lease_ms: int = 60_000, now_ms: int = NOW) -> Circuit:
    circuit = replace(Circuit(), state=State.HALF_OPEN, epoch=3, opens=1)
    for permit in permits:
        circuit, granted, _ = machine.admit(circuit, permit, lease_ms, POLICY, now_ms)
        assert granted
    return circuit


def probe(circuit: Circuit, permit: str, failure: bool = False, now_ms: int = NOW) -> Circuit:
    return told(circuit, Outcome(circuit.epoch, "w1", 0 if failure else 1, failure, permit), POLICY, now_ms)
