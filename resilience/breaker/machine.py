"""The circuit's state machine as pure functions over a value. `circuit.lua` is its twin on the server.

Time is an argument in milliseconds, randomness a number in [0, 1). Every transition raises `epoch`; an outcome
admitted under another epoch is dropped. The window is a ring of buckets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from resilience.breaker.policy import BreakerPolicy

BUCKETS = 12


class State(str, Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


LEGAL: dict[State, frozenset[State]] = {
    State.CLOSED: frozenset({State.OPEN}),
    State.OPEN: frozenset({State.HALF_OPEN, State.CLOSED}),  # closed: an operator's reset
    State.HALF_OPEN: frozenset({State.OPEN, State.CLOSED}),
}


@dataclass(frozen=True)
class Window:
    """Successes and failures per bucket; `head` is the number (time // width) of the newest bucket."""

    head: int = 0
    successes: tuple[int, ...] = (0,) * BUCKETS
    failures: tuple[int, ...] = (0,) * BUCKETS

    def add(self, bucket: int, successes: int, failures: int) -> Window:
        if bucket < self.head - BUCKETS:
            # Not a clock that was set back a little: the policy's window changed, and with it the buckets' numbers.
            return Window(bucket).add(bucket, successes, failures)
        s, f = list(self.successes), list(self.failures)
        head = max(bucket, self.head)  # time that goes backwards counts into the newest bucket
        for passed in range(self.head + 1, min(head, self.head + BUCKETS) + 1):
            s[passed % BUCKETS] = f[passed % BUCKETS] = 0
        s[head % BUCKETS] += successes
        f[head % BUCKETS] += failures
        return Window(head, tuple(s), tuple(f))


@dataclass(frozen=True)
class Circuit:
    """Everything a circuit remembers. `until_ms` is when an open circuit may be probed."""

    state: State = State.CLOSED
    epoch: int = 1
    until_ms: int = 0
    opens: int = 0
    streak: int = 0
    streak_worker: str = ""
    streak_shared: bool = False
    feeder: str = ""
    shared_until_ms: int = 0
    probes_passed: int = 0
    window: Window = field(default_factory=Window)
    permits: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Transition:
    old: State
    new: State
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a process reports: `successes` first, then at most one `failure`, seen by `worker` under `epoch`.

    `permit` is the id of a half-open permit, "" outside half-open.
    """

    epoch: int
    worker: str
    successes: int = 0
    failure: bool = False
    permit: str = ""


Step = tuple[Circuit, "Transition | None"]


def record(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    """The circuit after an outcome, and the transition that it caused, if any."""
    if outcome.epoch != circuit.epoch:
        return circuit, None
    if circuit.state is State.HALF_OPEN:
        return _record_probe(circuit, outcome, policy, now_ms, jitter)
    if circuit.state is State.OPEN:
        return circuit, None
    circuit = _count(circuit, outcome, policy, now_ms)
    reason = _why_open(circuit, policy, now_ms) if outcome.failure else ""
    return _open(circuit, reason, policy, now_ms, jitter) if reason else (circuit, None)


def admit(
    circuit: Circuit, permit: str, lease_ms: int, policy: BreakerPolicy, now_ms: int
) -> tuple[Circuit, bool, Transition | None]:
    """The circuit after a call asked to pass, whether it may, and the transition that this caused, if any."""
    transition = None
    if circuit.state is State.OPEN and now_ms >= circuit.until_ms:
        transition = Transition(State.OPEN, State.HALF_OPEN, "open time is over")
        circuit = _moved(circuit, State.HALF_OPEN)
    if circuit.state is State.CLOSED:
        return circuit, True, transition
    if circuit.state is State.OPEN:
        return circuit, False, transition
    held = {name: expiry for name, expiry in circuit.permits if expiry > now_ms}
    granted = permit in held or len(held) < policy.half_open_permits
    if granted:
        held[permit] = now_ms + lease_ms
    return replace(circuit, permits=tuple(held.items())), granted, transition


def bucket_of(now_ms: int, policy: BreakerPolicy) -> int:
    """The number of the window's bucket that a moment belongs to."""
    return now_ms // max(1, policy.window_ms // BUCKETS)


def reset(circuit: Circuit, reason: str) -> Step:
    """A closed circuit with an empty memory, by an operator's word."""
    transition = Transition(circuit.state, State.CLOSED, reason) if circuit.state is not State.CLOSED else None
    return replace(_moved(circuit, State.CLOSED), opens=0), transition


def _count(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int) -> Circuit:
    window = circuit.window.add(bucket_of(now_ms, policy), outcome.successes, int(outcome.failure))
    shared_until = circuit.shared_until_ms
    if circuit.feeder and circuit.feeder != outcome.worker:
        shared_until = now_ms + policy.window_ms
    streak, first, shared = circuit.streak, circuit.streak_worker, circuit.streak_shared
    if outcome.successes:
        streak, first, shared = 0, "", False
    if outcome.failure:
        shared = shared or (streak > 0 and first != outcome.worker)
        first = first or outcome.worker
        streak += 1
    return replace(
        circuit, window=window, feeder=outcome.worker, shared_until_ms=shared_until,
        streak=streak, streak_worker=first, streak_shared=shared,
    )  # fmt: skip


def _why_open(circuit: Circuit, policy: BreakerPolicy, now_ms: int) -> str:
    failures = sum(circuit.window.failures)
    calls = failures + sum(circuit.window.successes)
    if calls >= policy.minimum_calls:
        return f"{failures} of {calls} calls failed" if failures >= policy.failure_ratio * calls else ""
    enough_workers = circuit.streak_shared or now_ms >= circuit.shared_until_ms
    if circuit.streak >= policy.consecutive_failures and enough_workers:
        return f"{circuit.streak} failures in a row"
    return ""


def _record_probe(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    held = dict(circuit.permits)
    if held.pop(outcome.permit, 0) <= now_ms:
        return circuit, None  # no permit, or one that expired: somebody else may hold its place
    circuit = replace(circuit, permits=tuple(held.items()))
    if outcome.failure:
        return _open(circuit, "a probe failed", policy, now_ms, jitter)
    if not outcome.successes:
        return circuit, None
    passed = circuit.probes_passed + 1
    if passed >= policy.success_threshold:
        reason = f"{passed} probes passed"
        return replace(_moved(circuit, State.CLOSED), opens=0), Transition(State.HALF_OPEN, State.CLOSED, reason)
    return replace(circuit, probes_passed=passed), None


def _open(circuit: Circuit, reason: str, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    opens = circuit.opens + 1
    until = now_ms + policy.open_for_ms(opens, jitter)
    opened = replace(_moved(circuit, State.OPEN), opens=opens, until_ms=until)
    return opened, Transition(circuit.state, State.OPEN, reason)


def _moved(circuit: Circuit, state: State) -> Circuit:
    return Circuit(
        state=state, epoch=circuit.epoch + 1, opens=circuit.opens,
        feeder=circuit.feeder, shared_until_ms=circuit.shared_until_ms,
    )  # fmt: skip
