"""What makes a circuit open, how long it stays so, and what closes it again. Pure."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from resilience.errors.taxonomy import ErrorCategory, Row
from signals.redact import one_line

_NAME = re.compile(r"[\w.:/@+-]{1,200}", re.ASCII)


def check_name(name: object) -> str:
    """`name` if it can name a circuit, else ValueError with the rule. Names become parts of Redis keys."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    shown = one_line(repr(name), 60)
    raise ValueError(f"circuit name {shown} is not usable: 1 to 200 letters, digits or . : / @ + _ - are right")


class BreakerPolicy(BaseModel):
    """Thresholds and times of one circuit. Times are seconds.

    It opens after `consecutive_failures` while the window holds fewer than `minimum_calls` (from two workers, when
    two or more feed the circuit), or when the window's share of failed, slow or rate-limited calls reaches its ratio.
    The window holds the calls of the last `window_s`, or, with `window_calls`, the last so many calls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    consecutive_failures: int = Field(
        default=5, ge=1, le=10_000, description="Failures in a row that open it, while the window holds few calls."
    )
    failure_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of failed calls in the window that opens it."
    )
    rate_limit_ratio: float = Field(
        default=0.9, gt=0, le=1, description="Share of rate-limited calls in the window that opens it."
    )
    slow_call_s: float | None = Field(
        default=None, gt=0, le=86_400, description="A call that takes longer is slow; None: no call is."
    )
    slow_ratio: float = Field(default=0.8, gt=0, le=1, description="Share of slow calls in the window that opens it.")
    window_s: float = Field(default=60.0, ge=0.1, le=86_400, description="Length of the window.")
    window_calls: int | None = Field(
        default=None, ge=1, le=1_000, description="The window holds the last so many calls, however old."
    )
    minimum_calls: int = Field(
        default=20, ge=1, le=1_000_000, description="Calls in the window from which on the ratios count."
    )
    open_s: float = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="How long it stays open the first time; twice as long at each reopening.",
    )
    open_max_s: float = Field(default=600.0, gt=0, le=604_800, description="Longest time it stays open.")
    jitter: float = Field(default=0.1, ge=0, le=1, description="Share of the open time that is added at random.")
    half_open_permits: int = Field(
        default=3, ge=1, le=1_000, description="Probes under way at once, in the whole fleet."
    )
    success_threshold: int = Field(default=3, ge=1, le=1_000, description="Probes that must succeed to close it.")
    permit_lease_s: float = Field(
        default=60.0, gt=0, le=86_400, description="A probe that nobody settles gives its place back after so long."
    )
    ramp_s: float = Field(
        default=10.0, ge=0, le=3_600, description="After probes closed it, traffic grows from none to all in so long."
    )
    record: frozenset[ErrorCategory] = Field(
        default=frozenset(), description="Error categories that count here although by the matrix they do not."
    )
    ignore: frozenset[ErrorCategory] = Field(
        default=frozenset(), description="Error categories that do not count here."
    )

    @field_validator("record")
    @classmethod
    def _mistakes_never_count(cls, value: frozenset[ErrorCategory]) -> frozenset[ErrorCategory]:
        if ErrorCategory.PYTHON in value:
            raise ValueError(
                "python_error is a mistake in code and says nothing about a dependency; "
                "where an exception does, give it a category with a @rule"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> BreakerPolicy:
        if self.open_max_s < self.open_s:
            raise ValueError(
                f"open_max_s {self.open_max_s:g} is below open_s {self.open_s:g}: it must be at least that"
            )
        if self.window_calls is not None and self.window_calls < self.minimum_calls:
            raise ValueError(
                f"window_calls {self.window_calls} is below minimum_calls {self.minimum_calls}: "
                "no ratio would ever count; it must be at least that"
            )
        both = sorted(category.value for category in self.record & self.ignore)
        if both:
            raise ValueError(f"{both[0]} is in record and in ignore: it can be in one of them")
        return self

    def counts(self, category: ErrorCategory, row: Row) -> bool:
        """Whether a failure of this category, with this row of the matrix, is recorded by the circuit."""
        return category in self.record or (row.counts and category not in self.ignore)

    def is_slow(self, runtime_s: float) -> bool:
        return self.slow_call_s is not None and runtime_s > self.slow_call_s

    @property
    def window_ms(self) -> int:
        return whole_ms(self.window_s)

    @property
    def open_ms(self) -> int:
        return whole_ms(self.open_s)

    @property
    def open_max_ms(self) -> int:
        return whole_ms(self.open_max_s)

    @property
    def ramp_ms(self) -> int:
        return round(self.ramp_s * 1000)

    def open_for_ms(self, opens: int, jitter: float) -> int:
        """How long the `opens`-th opening in a row lasts (1-based); `jitter` is a random number in [0, 1).

        Rounded once, at the end, as `circuit.lua` does: both sides come to the same millisecond.
        """
        base = min(self.open_ms * 2 ** min(opens - 1, 40), self.open_max_ms)
        return int(base * (1.0 + self.jitter * jitter))


def whole_ms(seconds: float) -> int:
    """Seconds as milliseconds, at least one: what both sides of the state machine count in."""
    return max(1, round(seconds * 1000))
