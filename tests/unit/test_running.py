"""What a beat says of the attempts under way: it comes back as it went, stays small, and survives strangers."""

from __future__ import annotations

import pytest

from resilience.workers.running import CAPACITY, Running, RunningAttempt, packed, unpacked

ONE = RunningAttempt("shop.charge", "id-1", 2, "payments@fallback", "tag-1")


@pytest.mark.parametrize("stopping", [True, False])
def test_what_is_written_is_read(stopping: bool) -> None:
    assert unpacked(packed([ONE], stopping)) == Running((ONE,), stopping)


def test_a_beat_has_a_bounded_size_whatever_runs() -> None:
    many = [RunningAttempt("t" * 100, f"{number:0100}", 1, "c" * 150, "g" * 100) for number in range(5000)]
    text = packed(many, stopping=False)
    assert len(unpacked(text).attempts) == CAPACITY
    assert len(text) < 110_000


def test_an_attempt_with_a_name_of_ten_kilobytes_is_left_out_and_its_neighbours_are_not() -> None:
    long = RunningAttempt("shop.charge", "x" * 10_000, 1, "payments", "tag")
    assert unpacked(packed([long, ONE], stopping=False)).attempts == (ONE,)


@pytest.mark.parametrize(
    "text", ["", "null", "7", "[]", "[false]", '[false,[["a"]]]', '[false,[["a","b","c","d","e"]]]', "{"]
)
def test_what_a_stranger_wrote_is_refused_as_one_kind_of_error(text: str) -> None:
    with pytest.raises(ValueError, match="no list of running attempts"):
        unpacked(text)
