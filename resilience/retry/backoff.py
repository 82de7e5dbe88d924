"""How long to wait before the next attempt: tenacity wait strategies, each with a pure core.

    Retrying(wait=backoff.exponential(first_s=0.5))               # wherever tenacity takes a wait
    backoff.exponential(first_s=0.5).after(3, random.random)      # seconds to wait after the third failed attempt

Strategies are values without memory: threads and tasks may share one. Jitter is on unless it is set to 0. No wait is
longer than the strategy's `cap_s`, jitter included. Wrong numbers raise ValueError.
"""
# ruff: noqa: N801  a strategy is written like a call, in lower case as tenacity's own are

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tenacity import RetryCallState
from tenacity.wait import wait_base

from resilience.errors.classify import classify
from resilience.errors.taxonomy import Growth, Row, Strategy
from resilience.retry.verdict import refusal_in

Rng = Callable[[], float]
"""Gives a random number in [0, 1)."""

Wait = Callable[[RetryCallState], float]
"""What tenacity takes as `wait=`: a strategy of its own, one of these, or any such function."""

YEAR_S = 365 * 86_400.0


@dataclass(frozen=True)
class Failed:
    """What a strategy may know: attempt number `attempt` (the first is 1) failed, having waited `previous_s` before.

    `hint_s`: when the server said to come back, if it did.
    """

    attempt: int
    previous_s: float = 0.0
    hint_s: float | None = None


class Backoff(wait_base):
    """A wait strategy for tenacity, and for whoever brings the numbers."""

    def after(self, attempt: int, rng: Rng, previous_s: float = 0.0, hint_s: float | None = None) -> float:
        """Seconds to wait after attempt number `attempt` (the first is 1) has failed. Pure.

        `previous_s`: the wait before that attempt, 0 before the first. `hint_s`: when the server said to come back.
        """
        return self._seconds(Failed(attempt, previous_s, hint_s), rng)

    def __call__(self, retry_state: RetryCallState) -> float:
        # `upcoming_sleep` is the last wait until tenacity has this one: the only memory there is, one per call.
        failed = Failed(retry_state.attempt_number, retry_state.upcoming_sleep, hint_in(retry_state))
        return self._seconds(failed, random.random)

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        raise NotImplementedError


def hint_in(retry_state: RetryCallState) -> float | None:
    """Seconds that the server asked for with the failure of the last attempt. A circuit of ours is no server."""
    error = retry_state.outcome.exception() if retry_state.outcome is not None else None
    return None if error is None or refusal_in(error) is not None else classify(error).retry_after_s


def checked(seconds: object) -> float:
    """`seconds` if it is a number of seconds to wait, else ValueError with one sentence."""
    if isinstance(seconds, (int, float)) and not math.isnan(seconds):
        return float(seconds)
    raise ValueError(f"a backoff said to wait {seconds!r}, but a number of seconds is right")


def _grown(first_s: float, factor: float, attempt: int) -> float:
    try:
        return first_s * float(factor) ** (attempt - 1)
    except OverflowError:
        return math.inf  # the cap brings it back


def _spread(base_s: float, cap_s: float, jitter: float, rng: Rng) -> float:
    """`base_s` plus up to a share `jitter`. The room for it is left below the cap: there, too, a herd spreads out."""
    return min(cap_s, min(base_s, cap_s / (1.0 + jitter)) * (1.0 + jitter * rng()))


def _check(strategy: Backoff, **seconds: object) -> None:
    for name, value in seconds.items():
        good = isinstance(value, (int, float)) and 0 <= value <= YEAR_S
        if not good or (name == "cap_s" and value == 0):
            raise ValueError(
                f"backoff.{type(strategy).__name__}: {name} is {value!r}, but seconds from 0 to {YEAR_S:.0f} are right"
            )


def _check_factor(strategy: Backoff, factor: object) -> None:
    if not (isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 1):
        raise ValueError(f"backoff.{type(strategy).__name__}: factor is {factor!r}, but 1 or more is right")


def _check_share(strategy: Backoff, jitter: object) -> None:
    if not (isinstance(jitter, (int, float)) and 0 <= jitter <= 1):
        raise ValueError(f"backoff.{type(strategy).__name__}: jitter is {jitter!r}, but a share from 0 to 1 is right")


# -- strategies ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class linear(Backoff):
    """`first_s`, then `step_s` more each time (default: `first_s` again), plus up to a share `jitter` at random."""

    first_s: float = 0.1
    step_s: float | None = None
    cap_s: float = 10.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        _check(self, first_s=self.first_s, cap_s=self.cap_s)
        _check_share(self, self.jitter)
        if self.step_s is not None:
            _check(self, step_s=self.step_s)

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        step_s = self.first_s if self.step_s is None else self.step_s
        return _spread(self.first_s + step_s * (failed.attempt - 1), self.cap_s, self.jitter, rng)


@dataclass(frozen=True)
class exponential(Backoff):
    """`first_s`, then `factor` times as long each time, plus up to a share `jitter` at random."""

    first_s: float = 0.1
    factor: float = 2.0
    cap_s: float = 10.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        _check(self, first_s=self.first_s, cap_s=self.cap_s)
        _check_factor(self, self.factor)
        _check_share(self, self.jitter)

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        return _spread(_grown(self.first_s, self.factor, failed.attempt), self.cap_s, self.jitter, rng)


@dataclass(frozen=True)
class fibonacci(Backoff):
    """`first_s` times 1, 1, 2, 3, 5, 8, ..., plus up to a share `jitter` at random: gentler than exponential."""

    first_s: float = 0.1
    cap_s: float = 10.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        _check(self, first_s=self.first_s, cap_s=self.cap_s)
        _check_share(self, self.jitter)

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        here, following = self.first_s, self.first_s
        for _ in range(failed.attempt - 1):
            if here >= self.cap_s:
                break  # past the cap the rest of the row makes no difference
            here, following = following, here + following
        return _spread(here, self.cap_s, self.jitter, rng)


@dataclass(frozen=True)
class full_jitter(Backoff):
    """Anything between 0 and what exponential growth allows: the fewest collisions.

    From "Exponential Backoff And Jitter", AWS Architecture Blog: random_between(0, min(cap, base * 2 ** attempt)).
    """

    first_s: float = 0.1
    factor: float = 2.0
    cap_s: float = 10.0

    def __post_init__(self) -> None:
        _check(self, first_s=self.first_s, cap_s=self.cap_s)
        _check_factor(self, self.factor)

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        return min(self.cap_s, _grown(self.first_s, self.factor, failed.attempt)) * rng()


@dataclass(frozen=True)
class decorrelated_jitter(Backoff):
    """Anything between `first_s` and three times the wait before.

    From "Exponential Backoff And Jitter", AWS Architecture Blog: min(cap, random_between(base, sleep * 3)).
    """

    first_s: float = 0.1
    cap_s: float = 10.0

    def __post_init__(self) -> None:
        _check(self, first_s=self.first_s, cap_s=self.cap_s)
        if self.first_s > self.cap_s:
            raise ValueError(
                f"backoff.decorrelated_jitter: first_s {self.first_s:g} is above cap_s {self.cap_s:g}: "
                "it must be at most that"
            )

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        highest = 3.0 * min(max(self.first_s, failed.previous_s), self.cap_s)
        return min(self.cap_s, self.first_s + (highest - self.first_s) * rng())


@dataclass(frozen=True)
class server_hint(Backoff):
    """What the server asked for in Retry-After, else what `otherwise` says.

    A hint is never undercut, up to `cap_s`: what asks for more is a mistake or an attack. Up to a tenth comes on top
    at random, so that those who were sent away together do not come back together.
    """

    otherwise: Wait = field(default_factory=exponential)
    cap_s: float = 60.0

    def __post_init__(self) -> None:
        _check(self, cap_s=self.cap_s)
        if not callable(self.otherwise):
            raise TypeError(
                f"backoff.server_hint: otherwise is {self.otherwise!r}, but a strategy is right, such as "
                "backoff.exponential()"
            )

    def _seconds(self, failed: Failed, rng: Rng) -> float:
        if failed.hint_s is not None:
            return self._heeded(failed.hint_s, rng)
        if not isinstance(self.otherwise, Backoff):
            raise TypeError(f"backoff.server_hint: {self.otherwise!r} needs tenacity's state: call it through tenacity")
        return self.otherwise.after(failed.attempt, rng, failed.previous_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        hint_s = hint_in(retry_state)
        return self.otherwise(retry_state) if hint_s is None else self._heeded(hint_s, random.random)

    def _heeded(self, hint_s: float, rng: Rng) -> float:
        return max(0.0, min(hint_s, self.cap_s)) * (1.0 + 0.1 * rng())


@dataclass(frozen=True)
class custom(Backoff):
    """What your own `seconds(attempt)` says, cut to 0 and `cap_s`. Raises ValueError if that is no number."""

    seconds: Callable[[int], float]
    cap_s: float = 3600.0

    def __post_init__(self) -> None:
        _check(self, cap_s=self.cap_s)
        if not callable(self.seconds):
            raise TypeError(
                f"backoff.custom: {self.seconds!r} cannot be called: give a function of the attempt's number"
            )

    def _seconds(self, failed: Failed, _rng: Rng) -> float:
        return min(self.cap_s, max(0.0, checked(self.seconds(failed.attempt))))


# -- the matrix's own ----------------------------------------------------------------------------------------------

MATRIX_CAP_S = 60.0
MATRIX_HINT_CAP_S = 3600.0
_JITTER = 0.25
_IMMEDIATELY = linear(first_s=0.0, step_s=0.1, cap_s=MATRIX_CAP_S, jitter=0.0)
_BY_GROWTH: dict[Growth, Backoff] = {
    Growth.NONE: linear(first_s=0.0, jitter=0.0),
    Growth.LINEAR: linear(first_s=1.0, cap_s=MATRIX_CAP_S * (1 + _JITTER), jitter=_JITTER),
    Growth.EXPONENTIAL: exponential(first_s=1.0, cap_s=MATRIX_CAP_S * (1 + _JITTER), jitter=_JITTER),
}


_BY_ROW = {
    (immediate, growth): server_hint(_IMMEDIATELY if immediate else strategy, MATRIX_HINT_CAP_S)
    for growth, strategy in _BY_GROWTH.items()
    for immediate in (False, True)
}


def for_row(row: Row) -> server_hint:
    """The strategy that a row of the matrix asks for.

    Immediate retries wait 0, 0.1, 0.2 s; backoff 1, 2, 4, 8, 16 s (linear: 1, 2, 3 s) up to a minute, each plus up
    to a quarter of jitter so that a herd spreads out. A server's hint wins, up to an hour.
    """
    return _BY_ROW[row.strategy is Strategy.IMMEDIATE_RETRY, row.growth]


def delay_s(row: Row, retries: int, hint_s: float | None, random: Rng) -> float:
    """Seconds before retry number `retries` + 1 (0-based count of retries so far) of an error with this row."""
    return for_row(row).after(retries + 1, random, hint_s=hint_s)
