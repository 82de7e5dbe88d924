"""The circuit's state machine as pure functions over a value. `circuit.lua` is its twin on the server.

Time is an argument in milliseconds, randomness a number in [0, 1). Every transition raises `epoch`; an outcome
admitted under another epoch is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.window import (
    FAILURE,
    LIMITED,
    SLOW_FAILURE,
    SLOW_LIMITED,
    SLOW_SUCCESS,
    SUCCESS,
    Ring,
    Tally,
    last_calls,
)


class State(str, Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    """By an operator: nothing passes."""
    DISABLED = "disabled"
    """By an operator: everything passes, nothing is recorded."""
    METRICS_ONLY = "metrics_only"
    """By an operator: everything passes, everything is recorded, nothing opens it."""


FORCED = frozenset({State.FORCED_OPEN, State.DISABLED, State.METRICS_ONLY})
"""States that an operator sets; they end by his word or with their time."""


class Action(str, Enum):
    """What an operator can do to a circuit."""

    RESET = "reset"
    FORCE_OPEN = "force-open"
    DISABLE = "disable"
    METRICS_ONLY = "metrics-only"
    AUTO = "auto"


FORCES: dict[Action, State] = {
    Action.FORCE_OPEN: State.FORCED_OPEN,
    Action.DISABLE: State.DISABLED,
    Action.METRICS_ONLY: State.METRICS_ONLY,
}

LEGAL: dict[State, frozenset[State]] = {
    State.CLOSED: frozenset({State.OPEN}) | FORCED,
    State.OPEN: frozenset({State.HALF_OPEN, State.CLOSED}) | FORCED,  # closed: an operator's reset
    State.HALF_OPEN: frozenset({State.OPEN, State.CLOSED}) | FORCED,
    State.FORCED_OPEN: frozenset({State.HALF_OPEN, State.CLOSED, State.DISABLED, State.METRICS_ONLY}),
    State.DISABLED: frozenset({State.CLOSED, State.FORCED_OPEN, State.METRICS_ONLY}),
    State.METRICS_ONLY: frozenset({State.CLOSED, State.FORCED_OPEN, State.DISABLED}),
}


@dataclass(frozen=True)
class Circuit:
    """Everything a circuit remembers.

    `until_ms` is when an open circuit may be probed, a forced state ends (0: never) or a closed one's ramp is over.
    `changed_ms` is when its state was entered (0: it never had another one).
    """

    state: State = State.CLOSED
    epoch: int = 1
    until_ms: int = 0
    changed_ms: int = 0
    opens: int = 0
    streak: int = 0
    streak_worker: str = ""
    streak_shared: bool = False
    feeder: str = ""
    shared_until_ms: int = 0
    probes_passed: int = 0
    ring: Ring = field(default_factory=Ring)
    calls: str = ""
    permits: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Transition:
    old: State
    new: State
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a process reports: `successes` first, then at most one `failure`, seen by `worker` under `epoch`.

    `slow` of the successes were slow. The failure was a rate limit if `limited`, and slow if `slow_failure`.
    `permit` is the id of a half-open permit, "" outside half-open.
    """

    epoch: int
    worker: str
    successes: int = 0
    failure: bool = False
    permit: str = ""
    slow: int = 0
    limited: bool = False
    slow_failure: bool = False

    def tally(self) -> Tally:
        return Tally(
            successes=self.successes,
            failures=int(self.failure and not self.limited),
            slow=self.slow + int(self.failure and self.slow_failure),
            limited=int(self.failure and self.limited),
        )

    def letters(self) -> str:
        """One letter per call, oldest first."""
        letters = SLOW_SUCCESS * self.slow + SUCCESS * (self.successes - self.slow)
        if not self.failure:
            return letters
        if self.limited:
            return letters + (SLOW_LIMITED if self.slow_failure else LIMITED)
        return letters + (SLOW_FAILURE if self.slow_failure else FAILURE)


Step = tuple[Circuit, "Transition | None"]


def record(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    """The circuit after an outcome, and the transition that it caused, if any."""
    circuit, ended = _forced_time_over(begun_by(circuit, now_ms), now_ms)
    if ended is not None or outcome.epoch != circuit.epoch:
        return circuit, ended
    if circuit.state is State.HALF_OPEN:
        return _record_probe(circuit, outcome, policy, now_ms, jitter)
    if circuit.state not in (State.CLOSED, State.METRICS_ONLY):
        return circuit, None
    circuit = _count(circuit, outcome, policy, now_ms)
    if circuit.state is State.METRICS_ONLY:
        return circuit, None
    reason = _why_open(circuit, outcome, policy, now_ms)
    return _open(circuit, reason, policy, now_ms, jitter) if reason else (circuit, None)


def admit(
    circuit: Circuit, permit: str, lease_ms: int, policy: BreakerPolicy, now_ms: int
) -> tuple[Circuit, bool, Transition | None]:
    """The circuit after a call asked to pass, whether it may, and the transition that this caused, if any."""
    circuit, transition = _forced_time_over(begun_by(circuit, now_ms), now_ms)
    if circuit.state is State.OPEN and now_ms >= circuit.until_ms:
        transition = Transition(State.OPEN, State.HALF_OPEN, "open time is over")
        circuit = _moved(circuit, State.HALF_OPEN, now_ms)
    if circuit.state is not State.HALF_OPEN:
        return circuit, circuit.state not in (State.OPEN, State.FORCED_OPEN), transition
    held = {name: expiry for name, expiry in circuit.permits if expiry > now_ms}
    granted = permit in held or len(held) < policy.half_open_permits
    if granted:
        held[permit] = now_ms + lease_ms
    return replace(circuit, permits=tuple(held.items())), granted, transition


def obey(circuit: Circuit, action: Action, reason: str, ttl_ms: int, now_ms: int) -> Step:
    """The circuit after an operator's word. A forced state lasts `ttl_ms`, with 0 until further notice.

    RESET: closed, with an empty memory. AUTO: out of a forced state, as when its time is over.
    Saying the same again is no transition, but the time begins anew and the epoch rises.
    """
    circuit = begun_by(circuit, now_ms)
    if action is Action.AUTO:
        return _automatic(circuit, reason, now_ms)
    state = FORCES.get(action, State.CLOSED)
    until = now_ms + ttl_ms if ttl_ms and state in FORCED else 0
    opens = 0 if action is Action.RESET else circuit.opens
    transition = Transition(circuit.state, state, reason) if circuit.state is not state else None
    return replace(_moved(circuit, state, now_ms), until_ms=until, opens=opens), transition


def begun_by(circuit: Circuit, now_ms: int) -> Circuit:
    """The circuit on a clock that says `now_ms`. A state that was entered later than that tells of a clock set back,
    as by a failover to a host that is behind: the state begins now. Permits end, nobody knows when they would have.
    """
    ahead_ms = circuit.changed_ms - now_ms
    if ahead_ms <= 0:
        return circuit
    until_ms = circuit.until_ms - ahead_ms if circuit.until_ms else 0
    return replace(circuit, changed_ms=now_ms, until_ms=until_ms, permits=())


def tally(circuit: Circuit, policy: BreakerPolicy) -> Tally:
    """The calls in the circuit's window, of the kind that the policy asks for."""
    return circuit.ring.total() if policy.window_calls is None else last_calls(circuit.calls)


def _automatic(circuit: Circuit, reason: str, now_ms: int) -> Step:
    """Out of a forced state: probed first if nothing passed in it, else closed. Other states stay as they are."""
    if circuit.state not in FORCED:
        return circuit, None
    new = State.HALF_OPEN if circuit.state is State.FORCED_OPEN else State.CLOSED
    return replace(_moved(circuit, new, now_ms), opens=0), Transition(circuit.state, new, reason)


def _forced_time_over(circuit: Circuit, now_ms: int) -> Step:
    if circuit.state in FORCED and 0 < circuit.until_ms <= now_ms:
        return _automatic(circuit, f"{circuit.state.value} time is over", now_ms)
    return circuit, None


def _count(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int) -> Circuit:
    shared_until = min(circuit.shared_until_ms, now_ms + policy.window_ms)  # later only by a clock that was set back
    if circuit.feeder and circuit.feeder != outcome.worker:
        shared_until = now_ms + policy.window_ms
    streak, first, shared = circuit.streak, circuit.streak_worker, circuit.streak_shared
    if outcome.successes:
        streak, first, shared = 0, "", False
    if outcome.failure and not outcome.limited:
        shared = shared or (streak > 0 and first != outcome.worker)
        first = first or outcome.worker
        streak += 1
    if policy.window_calls is None:
        ring, calls = circuit.ring.add(now_ms, policy.window_ms, outcome.tally()), ""
    else:
        ring, calls = Ring(), (circuit.calls + outcome.letters())[-policy.window_calls :]
    return replace(
        circuit, ring=ring, calls=calls, feeder=outcome.worker, shared_until_ms=shared_until,
        streak=streak, streak_worker=first, streak_shared=shared,
    )  # fmt: skip


def _why_open(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int) -> str:
    if not (outcome.failure or outcome.slow):
        return ""
    seen = tally(circuit, policy)
    if seen.calls >= policy.minimum_calls:
        return _which_ratio(seen, policy)
    enough_workers = circuit.streak_shared or now_ms >= circuit.shared_until_ms
    if circuit.streak >= policy.consecutive_failures and enough_workers:
        return f"{circuit.streak} failures in a row"
    return ""


def _which_ratio(seen: Tally, policy: BreakerPolicy) -> str:
    if seen.failures >= policy.failure_ratio * seen.calls:
        return f"{seen.failures} of {seen.calls} calls failed"
    if seen.limited >= policy.rate_limit_ratio * seen.calls:
        return f"{seen.limited} of {seen.calls} calls were rate-limited"
    if policy.slow_call_s is not None and seen.slow >= policy.slow_ratio * seen.calls:
        return f"{seen.slow} of {seen.calls} calls were slow"
    return ""


def _record_probe(circuit: Circuit, outcome: Outcome, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    held = dict(circuit.permits)
    if held.pop(outcome.permit, 0) <= now_ms:
        return circuit, None  # no permit, or one that expired: somebody else may hold its place
    circuit = replace(circuit, permits=tuple(held.items()))
    if outcome.failure:
        reason = "a probe was rate-limited" if outcome.limited else "a probe failed"
        return _open(circuit, reason, policy, now_ms, jitter)
    if outcome.slow and policy.slow_call_s is not None:
        return _open(circuit, "a probe was slow", policy, now_ms, jitter)
    if not outcome.successes:
        return circuit, None
    passed = circuit.probes_passed + 1
    if passed >= policy.success_threshold:
        # how often it opened in a row is kept while the ramp lasts: what opens again so soon has not recovered
        closed = replace(_moved(circuit, State.CLOSED, now_ms), until_ms=now_ms + policy.ramp_ms)
        return closed, Transition(State.HALF_OPEN, State.CLOSED, f"{passed} probes passed")
    return replace(circuit, probes_passed=passed), None


def _open(circuit: Circuit, reason: str, policy: BreakerPolicy, now_ms: int, jitter: float) -> Step:
    recovered = circuit.state is State.CLOSED and now_ms >= circuit.until_ms
    opens = 1 if recovered else circuit.opens + 1
    until = now_ms + policy.open_for_ms(opens, jitter)
    opened = replace(_moved(circuit, State.OPEN, now_ms), opens=opens, until_ms=until)
    return opened, Transition(circuit.state, State.OPEN, reason)


def _moved(circuit: Circuit, state: State, now_ms: int) -> Circuit:
    return Circuit(
        state=state, epoch=circuit.epoch + 1, changed_ms=now_ms, opens=circuit.opens,
        feeder=circuit.feeder, shared_until_ms=circuit.shared_until_ms,
    )  # fmt: skip
