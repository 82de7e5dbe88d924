"""Whether a pool of threads runs its calls one by one: for as long as they turn out not to wait."""

from __future__ import annotations

import pytest

from resilience.workers.pace import (
    FIRST_SPELL_S,
    JUDGED_CALLS,
    LONG_S,
    LONGEST_LOOK_S,
    LONGEST_SPELL_S,
    LOOK_S,
    SOON_S,
    WAIT_S,
    Pace,
    Watch,
)  # fmt: skip

NOW_S = 1_000.0


def run(pace: Pace, calls: int, *, took_s: float, busy_s: float, now_s: float = NOW_S) -> bool:
    for _ in range(calls):
        pace.ran(1, took_s, busy_s, now_s)
    return pace.one_by_one


def test_short_calls_run_one_by_one_for_ever() -> None:
    assert run(Pace(), 100 * JUDGED_CALLS, took_s=0.9 * WAIT_S, busy_s=0.0)
    assert run(Pace(), 100 * JUDGED_CALLS, took_s=0.9 * LONG_S, busy_s=0.9 * LONG_S)


@pytest.mark.parametrize(("took_s", "busy_s"), [(1.1 * WAIT_S, 0.0), (1.1 * LONG_S, 1.1 * LONG_S)])
def test_calls_that_wait_or_are_long_run_at_once_before_many_have(took_s: float, busy_s: float) -> None:
    assert not run(Pace(), JUDGED_CALLS, took_s=took_s, busy_s=busy_s)


def test_one_call_that_waits_long_is_enough_and_a_hiccup_is_not() -> None:
    pace = Pace()
    assert run(pace, 1, took_s=0.5 * JUDGED_CALLS * WAIT_S, busy_s=0.0)
    assert run(pace, 10 * JUDGED_CALLS, took_s=0.3 * WAIT_S, busy_s=0.0)
    assert not run(pace, 1, took_s=2 * JUDGED_CALLS * WAIT_S, busy_s=0.0)


def test_after_a_spell_it_is_tried_again_and_each_spell_is_longer_than_the_one_before() -> None:
    pace, now_s, spells = Pace(), NOW_S, []
    for _ in range(20):
        pace.one_waited(now_s)
        begun_s = now_s
        while not pace.at(now_s):
            now_s += FIRST_SPELL_S / 4
        spells.append(now_s - begun_s)
    assert spells[0] == pytest.approx(FIRST_SPELL_S)
    assert spells[3] == pytest.approx(8 * FIRST_SPELL_S)
    assert spells[-1] == pytest.approx(LONGEST_SPELL_S, rel=0.01)


def test_a_trial_that_lasted_makes_the_next_spell_short_again() -> None:
    pace = Pace()
    for after_s in (0.0, 2 * FIRST_SPELL_S, 6 * FIRST_SPELL_S):
        assert pace.at(NOW_S + after_s)
        pace.one_waited(NOW_S + after_s)
    late_s = NOW_S + 14 * FIRST_SPELL_S
    assert pace.at(late_s)
    pace.one_waited(late_s + 1.1 * SOON_S)
    assert not pace.at(late_s + 1.1 * SOON_S + 0.9 * FIRST_SPELL_S)
    assert pace.at(late_s + 1.1 * SOON_S + 1.1 * FIRST_SPELL_S)


def test_what_runs_at_once_is_not_judged() -> None:
    pace = Pace()
    pace.one_waited(NOW_S)
    run(pace, JUDGED_CALLS, took_s=1.0, busy_s=0.0)
    assert pace.at(NOW_S + 1.1 * FIRST_SPELL_S)
    assert run(pace, JUDGED_CALLS, took_s=0.5 * WAIT_S, busy_s=0.0)


@pytest.mark.parametrize(
    ("looks", "sees"),
    [
        ([(True, 0, 0.0)], True),
        ([(True, 1, 0.0)], False),
        ([(True, 1, 0.0), (True, 1, 0.0)], True),
        ([(True, 0, 0.004)], False),
        ([(True, 0, 0.004), (True, 0, 0.004)], True),
        ([(True, 1, 0.0), (True, 9, 0.0), (True, 1, 0.0)], False),
        ([(True, 1, 0.004)] * 9, False),
        ([(False, 0, 0.0)] * 9, False),
        ([(True, 2, 0.0)] * 9, False),
    ],
)
def test_a_look_sees_a_call_wait_if_the_line_stands_though_somebody_could_run(
    looks: list[tuple[bool, int, float]], sees: bool
) -> None:
    watch = Watch()
    seen = [watch.sees_one_wait(stands=stands, began=began, late_s=late_s) for stands, began, late_s in looks]
    assert seen[-1] is sees
    assert not any(seen[:-1])


def test_looks_are_rare_while_calls_are_short_and_often_again_at_the_first_doubt() -> None:
    watch = Watch()
    for _ in range(9):
        watch.sees_one_wait(stands=True, began=20, late_s=0.0)
    assert watch.look_s == LONGEST_LOOK_S
    watch.sees_one_wait(stands=True, began=1, late_s=0.0)
    assert watch.look_s == LOOK_S


def test_a_watch_is_over_when_nothing_has_stood_in_line_for_a_while() -> None:
    watch = Watch()
    for _ in range(4):
        watch.sees_one_wait(stands=False, began=9, late_s=0.0)
    watch.sees_one_wait(stands=True, began=9, late_s=0.0)
    assert not watch.is_over
    for _ in range(5):
        watch.sees_one_wait(stands=False, began=9, late_s=0.0)
    assert watch.is_over
