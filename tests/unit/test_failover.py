"""Levels and journeys: which queue and circuit a level has, and the record that a moved message carries."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.recovery.failover import HEADER, KEPT_HOPS, Hop, Journey, Plan, choose_level, journey_of, level_in

PLAN = Plan("openai", ("fallback", "offline"))


def test_level_0_is_home_and_each_level_has_a_circuit_of_its_own() -> None:
    assert [PLAN.circuit_at(level) for level in range(3)] == ["openai", "openai@fallback", "openai@offline"]
    assert [PLAN.queue_at(level, "celery") for level in range(3)] == ["celery", "fallback", "offline"]


def test_the_first_level_whose_circuit_passes_is_chosen() -> None:
    assert choose_level(PLAN, lambda _: True) == 0
    assert choose_level(PLAN, lambda circuit: circuit != "openai") == 1
    assert choose_level(PLAN, lambda _: True, first=2) == 2
    assert choose_level(PLAN, lambda _: False) is None
    assert choose_level(Plan("a"), lambda _: True, first=1) is None


def test_a_message_without_a_header_is_at_home() -> None:
    for headers in (None, {}, {"other": 1}):
        assert journey_of(headers, "celery") == Journey("celery")


_TEXT = st.text(min_size=1, max_size=8)


@given(
    _TEXT, st.lists(st.tuples(_TEXT, _TEXT, st.text(max_size=8), st.integers(0, 9), st.integers(0, 99)), max_size=30)
)
def test_a_journey_survives_its_header(home: str, moves: list[tuple[str, str, str, int, int]]) -> None:
    journey = Journey(home)
    for origin, destination, reason, level, retries in moves:
        journey = journey.moved(origin, destination, reason, level, retries)
    read = journey_of({HEADER: json.loads(json.dumps(journey.header()))}, "elsewhere")
    assert read == journey
    levels = [0, *(level for _, _, _, level, _ in moves)]
    changes = sum(before != after for before, after in pairwise(levels))
    assert read.hop_count == changes, "only changes of level use up the bound; parking does not"
    assert len(read.hops) == min(len(moves), KEPT_HOPS)


def test_a_move_to_another_level_remembers_the_retries_already_spent() -> None:
    moved = Journey("celery").moved("celery", "fallback", "open", 1, retries=4)
    assert (moved.level, moved.spent) == (1, 4)
    assert moved.hops == (Hop("celery", "fallback", "open", 1),)
    parked = moved.moved("fallback", "parked", "open", 1, retries=6)
    assert parked.spent == 4, "the level is the same, so its own retries still count"


_GOOD = Journey("celery", 1, 2, (Hop("a", "b", "c", 1),), 3).header()


@pytest.mark.parametrize(
    "header",
    [
        None, 7, "text", [], {}, {**_GOOD, "home": None}, {**_GOOD, "home": ""}, {**_GOOD, "home": 5},
        {**_GOOD, "level": -1}, {**_GOOD, "level": "x"}, {**_GOOD, "spent": -100}, {**_GOOD, "spent": math.inf},
        {**_GOOD, "hop_count": -1}, {**_GOOD, "hops": 5}, {**_GOOD, "hops": [[1, 2]]}, {**_GOOD, "hops": None},
    ],
)  # fmt: skip
def test_a_header_that_makes_no_sense_counts_as_none(header: Any) -> None:
    assert journey_of({HEADER: header}, "celery") == Journey("celery")


def test_a_level_that_the_code_no_longer_knows_is_home() -> None:
    assert level_in(PLAN, Journey("celery", level=2)) == 2
    assert level_in(PLAN, Journey("celery", level=3)) == 0
