"""What makes a circuit open, how long it stays so, and what closes it again. Pure."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NAME = re.compile(r"[\w.:/@+-]{1,200}", re.ASCII)


def check_name(name: object) -> str:
    """`name` if it can name a circuit, else ValueError with the rule. Names become parts of Redis keys."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    shown = repr(name)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise ValueError(f"circuit name {shown} is not usable: 1 to 200 letters, digits or . : / @ + _ - are right")


class BreakerPolicy(BaseModel):
    """Thresholds and times of one circuit. Times are seconds.

    It opens after `consecutive_failures` while the window holds fewer than `minimum_calls` (from two workers, when
    two or more feed the circuit), or when the window's failure ratio reaches `failure_ratio`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    consecutive_failures: int = Field(
        default=5, ge=1, le=10_000, description="Failures in a row that open it, while the window holds few calls."
    )
    failure_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of failed calls in the window that opens it."
    )
    window_s: float = Field(default=60.0, ge=0.1, le=86_400, description="Length of the window.")
    minimum_calls: int = Field(
        default=20, ge=1, le=1_000_000, description="Calls in the window from which on the ratio counts."
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

    @model_validator(mode="after")
    def _consistent(self) -> BreakerPolicy:
        if self.open_max_s < self.open_s:
            raise ValueError(
                f"open_max_s {self.open_max_s:g} is below open_s {self.open_s:g}: it must be at least that"
            )
        return self

    @property
    def window_ms(self) -> int:
        return whole_ms(self.window_s)

    @property
    def open_ms(self) -> int:
        return whole_ms(self.open_s)

    @property
    def open_max_ms(self) -> int:
        return whole_ms(self.open_max_s)

    def open_for_ms(self, opens: int, jitter: float) -> int:
        """How long the `opens`-th opening in a row lasts (1-based); `jitter` is a random number in [0, 1).

        Rounded once, at the end, as `circuit.lua` does: both sides come to the same millisecond.
        """
        base = min(self.open_ms * 2 ** min(opens - 1, 40), self.open_max_ms)
        return int(base * (1.0 + self.jitter * jitter))


def whole_ms(seconds: float) -> int:
    """Seconds as milliseconds, at least one: what both sides of the state machine count in."""
    return max(1, round(seconds * 1000))
