"""An operator's word, before it goes to the store and into an audit that everybody can read."""

from __future__ import annotations

import math

import pytest

from resilience.breaker.machine import Action
from resilience.breaker.store import LONGEST_TTL_S, REASON_LENGTH, Order
from signals.redact import redact


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("two\nlines\tand  blanks", "two lines and blanks"),
        ("a \x1b[31mcolour\x1b[0m and a bell\a", "a [31mcolour [0m and a bell"),
        ("right to \u202eleft", "right to left"),
        ("half a character \udcff", "half a character"),
        ("x" * 1_000, "x" * REASON_LENGTH),
        ("see redis://ops:hunter2@store:6379/0", "see redis://ops:[redacted]@store:6379/0"),
    ],
)
def test_a_reason_is_one_printable_line_without_secrets(written: str, kept: str) -> None:
    assert Order(Action.RESET, "ann", written).cleaned(redact).reason == kept


@pytest.mark.parametrize("nothing", ["", " \n", "\x00\x1b", "\u200b"])
def test_a_reason_that_shows_nothing_is_none(nothing: str) -> None:
    with pytest.raises(ValueError, match="disable needs an actor and a reason"):
        Order(Action.DISABLE, "ann", nothing).cleaned(redact)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, math.nan, math.inf, LONGEST_TTL_S + 1])
def test_a_time_that_is_none_is_refused(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="is not possible: above 0 and up to 2592000 "):
        Order(Action.FORCE_OPEN, "ann", "why", ttl_s=ttl_s).cleaned(redact)


@pytest.mark.parametrize("ttl_s", [None, 0.001, LONGEST_TTL_S])
def test_a_time_up_to_the_longest_is_taken_as_it_is(ttl_s: float | None) -> None:
    assert Order(Action.FORCE_OPEN, "ann", "why", ttl_s=ttl_s).cleaned(redact).ttl_s == ttl_s
