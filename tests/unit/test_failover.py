"""Levels and journeys: which queue and circuit a level has, and the record that a moved message carries."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.recovery.failover import (
    HEADER,
    KEPT_HOPS,
    MAX_HOPS,
    Hop,
    Journey,
    Level,
    OnOpen,
    Plan,
    choose_level,
    detour,
    journey_of,
    level_in,
    level_to_send_to,
    moved_to,
)

PLAN = Plan("openai", (Level("fallback"), Level("offline")))


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
    _TEXT, st.lists(st.tuples(_TEXT, _TEXT, st.text(max_size=8), st.integers(0, 9), st.integers(-9, 99)), max_size=30)
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
        {**_GOOD, "home": "half a character \ud800"},
        {**_GOOD, "level": -1}, {**_GOOD, "level": "x"}, {**_GOOD, "spent": -100}, {**_GOOD, "spent": math.inf},
        {**_GOOD, "hop_count": -1}, {**_GOOD, "hops": 5}, {**_GOOD, "hops": [[1, 2]]}, {**_GOOD, "hops": None},
    ],
)  # fmt: skip
def test_a_header_that_makes_no_sense_counts_as_none(header: Any) -> None:
    assert journey_of({HEADER: header}, "celery") == Journey("celery")


def test_a_level_that_the_code_no_longer_knows_is_home() -> None:
    assert level_in(PLAN, Journey("celery", level=2)) == 2
    assert level_in(PLAN, Journey("celery", level=3)) == 0


CHAT = Plan("chat", (Level("second"), Level(task="offline"), Level("paper", "letter")))
"""A queue, another task at home, another task on a queue of its own."""
AT = {level: Journey("celery", level, task="ask" if level > 1 else "") for level in range(4)}
NAMES = ("ask", "ask", "offline", "letter")


def _but(*shut: str) -> Any:
    return lambda circuit: circuit not in shut


def _park(home: str, circuit: str) -> str:
    return f"parked {circuit} {home}"


def _is_queue(level: Level) -> bool:
    return not level.task


def test_each_level_has_its_circuit_its_queue_and_its_task() -> None:
    levels = range(4)
    assert [CHAT.circuit_at(level) for level in levels] == ["chat", "chat@second", "chat@offline", "chat@letter@paper"]
    assert [CHAT.queue_at(level, "celery") for level in levels] == ["celery", "second", "celery", "paper"]
    assert [CHAT.task_at(level, "ask") for level in levels] == list(NAMES)
    assert [CHAT.place_at(level, "celery") for level in levels] == [
        "celery", "second", "offline on celery", "letter on paper",
    ]  # fmt: skip


ALL = ("chat", "chat@second", "chat@offline", "chat@letter@paper")


@pytest.mark.parametrize(
    ("level", "shut", "usable", "queue", "task", "to_level"),
    [
        (0, ALL[:1], None, "second", "ask", 1),
        (0, ALL[:2], None, "celery", "offline", 2),
        (0, ALL[:3], None, "paper", "letter", 3),
        (0, ALL, None, "parked chat celery", "ask", 0),
        (0, ALL[:2], _is_queue, "parked chat celery", "ask", 0),
        (1, ALL[1:2], None, "celery", "ask", 0),
        (2, ALL[:3], None, "paper", "letter", 3),
        (2, ALL[2:3], None, "celery", "ask", 0),
        (3, (ALL[0], ALL[3]), None, "second", "ask", 1),
        (3, ALL, None, "parked chat celery", "ask", 0),
    ],
)
def test_the_way_round_an_open_circuit(
    level: int, shut: tuple[str, ...], usable: Any, queue: str, task: str, to_level: int
) -> None:
    here = CHAT.queue_at(level, "celery")
    options = {} if usable is None else {"usable": usable}
    way = detour(CHAT, AT[level], NAMES[level], here, "open", 2, _but(*shut), _park, **options)
    assert way is not None
    assert (way.queue, way.task, way.journey.level) == (queue, task, to_level)
    assert (way.journey.task or task) == "ask" or to_level == 1, "the name that was sent is never lost"
    assert way.journey.hops[-1].origin == here


@given(st.lists(st.sets(st.sampled_from(ALL)), max_size=40), st.sampled_from(OnOpen))
def test_a_message_never_loses_its_name_and_never_moves_for_ever(outages: list[set[str]], on_open: OnOpen) -> None:
    plan = Plan(CHAT.circuit, CHAT.levels, on_open=on_open)
    journey, task, here = Journey("celery"), "ask", "celery"
    for shut in outages:
        way = detour(plan, journey, task, here, "open", 0, _but(*shut), _park)
        assert way is not None
        journey = journey_of({HEADER: json.loads(json.dumps(way.journey.header()))}, "elsewhere")
        task, here = way.task, way.queue
        assert (journey.task or task) == "ask"
        assert task == plan.task_at(journey.level, "ask")
    assert journey.hop_count <= MAX_HOPS + 1, "the last one is the way home, to the parking place"


@pytest.mark.parametrize("on_open", ["park", "fail"])
def test_a_task_that_is_to_wait_or_fail_keeps_off_its_levels(on_open: str) -> None:
    plan = Plan(CHAT.circuit, CHAT.levels, on_open=OnOpen(on_open))
    way = detour(plan, Journey("celery"), "ask", "celery", "open", 0, _but("chat"), _park)
    assert way is not None
    assert (way.queue, way.journey.hops[-1].reason) == (
        "parked chat celery",
        "open: parked" if on_open == "park" else "open, no level healthy: parked",
    )
    assert level_to_send_to(plan, Journey("celery"), _but("chat")) == 0
    assert level_to_send_to(plan, AT[2], _but("chat")) == 2, "a failure brought it there"
    assert level_to_send_to(plan, AT[2], _but("chat", "chat@offline")) == 0
    assert level_to_send_to(plan, AT[2], _but()) == 0


def test_where_nothing_can_be_parked_there_may_be_no_way() -> None:
    assert detour(CHAT, AT[0], "ask", "celery", "open", 0, _but(*ALL), None) is None


@pytest.mark.parametrize(("shut", "level"), [((), 0), (ALL[:1], 1), (ALL[:2], 2), (ALL, 0)])
def test_a_message_is_sent_to_the_first_healthy_level_or_home(shut: tuple[str, ...], level: int) -> None:
    assert level_to_send_to(CHAT, AT[3], _but(*shut)) == level


def test_a_move_home_brings_the_name_back() -> None:
    away = moved_to(CHAT, Journey("celery"), "ask", 3, "celery", "open", 1)
    assert (away.task, away.journey.task) == ("letter", "ask")
    home = moved_to(CHAT, away.journey, "letter", 0, "paper", "closed", 2)
    assert (home.queue, home.task, home.journey.task) == ("celery", "ask", "ask")
