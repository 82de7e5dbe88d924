"""One pure function: a classified failure and its context in, a decision out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resilience.errors.classify import Classified
from resilience.errors.taxonomy import Strategy
from resilience.recovery.failover import MAX_HOPS
from resilience.retry.backoff import delay_s


@dataclass(frozen=True)
class Situation:
    """What is known about a failed attempt.

    `retries` so far; `max_retries` when the task sets its own; `next_level`: a healthy level below the current one,
    or None; `hops` that the message made; `circuit_open`: the attempt was refused by a circuit, not run.
    """

    error: Classified
    retries: int
    max_retries: int | None = None
    next_level: int | None = None
    hops: int = 0
    circuit_open: bool = False


@dataclass(frozen=True)
class RetryAfter:
    """Run again on the same level after `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True)
class FailOver:
    """Run on `level`, at once."""

    level: int


@dataclass(frozen=True)
class Abandon:
    """Let it fail: nothing would help."""


Decision = RetryAfter | FailOver | Abandon


def decide(situation: Situation, random: Callable[[], float]) -> Decision:
    """What to do about a failed attempt. Every path ends: retries and hops are bounded."""
    row = situation.error.row
    can_fail_over = situation.next_level is not None and situation.hops < MAX_HOPS
    if can_fail_over and (situation.circuit_open or row.strategy is Strategy.FAILOVER):
        assert situation.next_level is not None
        return FailOver(situation.next_level)
    if row.transient:
        limit = row.max_retries if situation.max_retries is None else situation.max_retries
        if situation.retries < limit:
            return RetryAfter(delay_s(row, situation.retries, situation.error.retry_after_s, random))
        if can_fail_over:
            assert situation.next_level is not None
            return FailOver(situation.next_level)
    return Abandon()
