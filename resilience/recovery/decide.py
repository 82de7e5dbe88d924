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
    or None; `hops` that the message made; `circuit_open`: the attempt was refused by a circuit, not run;
    `left_s`: seconds until its deadline, None without one; `budget_spent`: the fleet's retry budget has none left;
    `own_delay_s`: seconds to wait when the task sets that itself.
    """

    error: Classified
    retries: int
    max_retries: int | None = None
    next_level: int | None = None
    hops: int = 0
    circuit_open: bool = False
    left_s: float | None = None
    budget_spent: bool = False
    own_delay_s: float | None = None


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
    """Let it fail, and say why nothing else is done."""

    reason: str


Decision = RetryAfter | FailOver | Abandon


def decide(situation: Situation, random: Callable[[], float]) -> Decision:
    """What to do about a failed attempt. Every path ends: retries and hops are bounded."""
    row = situation.error.row
    if situation.left_s is not None and situation.left_s <= 0:
        return Abandon("its deadline is over")
    if situation.circuit_open or row.strategy is Strategy.FAILOVER:
        moved = _fail_over(situation)
        if moved is not None:
            return moved
    if not row.transient:
        return Abandon("no retry would help")
    delay = situation.own_delay_s
    if delay is None:
        delay = delay_s(row, situation.retries, situation.error.retry_after_s, random)
    no_retry = _why_no_retry(situation, delay)
    if not no_retry:
        return RetryAfter(delay)
    return _fail_over(situation) or Abandon(no_retry)


def _fail_over(situation: Situation) -> FailOver | None:
    if situation.next_level is None or situation.hops >= MAX_HOPS:
        return None
    return FailOver(situation.next_level)


def _why_no_retry(situation: Situation, delay: float) -> str:
    row = situation.error.row
    limit = row.max_retries if situation.max_retries is None else situation.max_retries
    if situation.retries >= limit:
        return f"its {limit} retries are spent" if limit else "it is not to be retried"
    if situation.left_s is not None and delay >= situation.left_s:
        return f"the next attempt, in {delay:.1f} s, would begin after its deadline"
    if situation.budget_spent:
        return "the retry budget of its circuit is spent"
    return ""
