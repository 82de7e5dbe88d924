"""The verdicts find what is planted, and let pass what the guarantees allow."""

from __future__ import annotations

import dataclasses

import pytest

from tests.chaos.record import Blow, Job, Mark, Record
from tests.chaos.verdict import repeats, restart_times, spread, verdicts

A, B = 100, 200
"""Two workers, by their main pid."""


def job(number: int, **options: object) -> Job:
    return Job(number, "celery", 0, **options)  # type: ignore[arg-type]


def run(number: int, main: int, at: float, ends_after: float | None = 0.1, pid: int = 0) -> list[Mark]:
    begin = Mark("begin", number, 0, pid or main, main, at)
    return [begin] if ends_after is None else [begin, dataclasses.replace(begin, event="end", at=at + ends_after)]


def kill(main: int, at: float, *held: int, kind: str = "main", pid: int = 0) -> Blow:
    return Blow(kind, main, pid or main, at, at, frozenset(held))


def record(jobs: list[Job], *runs: list[Mark], blows: tuple[Blow, ...] = (), **options: object) -> Record:
    marks = tuple(mark for some in runs for mark in some)
    return Record({one.number: one for one in jobs}, marks, blows, **options)  # type: ignore[arg-type]


def rules(found: Record) -> list[str]:
    return [finding.rule for finding in verdicts(found)]


def test_a_round_in_which_everything_ran_once_in_order_has_no_findings() -> None:
    assert verdicts(record([job(0), job(1)], run(0, A, 1.0), run(1, A, 2.0))) == []


def test_a_job_that_never_ended_is_lost_and_its_history_is_told() -> None:
    (finding,) = verdicts(record([job(0)], run(0, A, 1.0, ends_after=None), blows=(kill(A, 1.5, 0),)))
    assert finding.rule == "lost"
    assert "1.000 begin" in finding.evidence
    assert "main of 100" in finding.evidence


def test_a_job_in_the_quarantine_is_not_lost_nor_what_would_follow_it() -> None:
    jobs = [job(0), job(1, after=(0,), ordered=False)]
    runs = [run(0, worker, worker, ends_after=None) for worker in range(1, 5)]
    deaths = tuple(kill(worker, worker + 0.5, 0) for worker in range(1, 5))
    assert rules(record(jobs, *runs, blows=deaths, quarantined=frozenset({0}))) == []
    assert rules(record(jobs, *runs, blows=deaths, quarantined=frozenset({0}), deaths=4)) == ["condemned"]
    assert rules(record(jobs, *runs[:3], blows=deaths[:3], quarantined=frozenset({0}))) == ["condemned"]


def test_a_job_that_ran_at_the_kill_of_its_worker_may_run_again() -> None:
    found = record([job(0)], run(0, A, 1.0, ends_after=None), run(0, B, 3.0), blows=(kill(A, 1.5, 0),))
    assert verdicts(found) == []
    assert [repeat.excused for repeat in repeats(found)] == [True]
    assert restart_times(found, ("main",)) == [1.5]


@pytest.mark.parametrize(
    "blow",
    [
        kill(B, 1.5, 0),
        kill(A, 1.5),
        kill(A, 0.5, 0),
        kill(A, 4.0, 0),
        kill(A, 1.5, 0, kind="stop"),
        kill(A, 1.5, kind="child", pid=999),
    ],
    ids=["another worker", "acknowledged", "before it began", "after the repeat", "a warm stop", "another child"],
)
def test_a_repeat_without_a_cause_is_found(blow: Blow) -> None:
    assert rules(record([job(0)], run(0, A, 1.0), run(0, B, 3.0), blows=(blow,))) == ["repeated"]


def test_one_kill_excuses_one_repeat_only() -> None:
    runs = run(0, A, 1.0, ends_after=None), run(0, B, 3.0), run(0, B, 4.0)
    assert rules(record([job(0)], *runs, blows=(kill(A, 1.5, 0),))) == ["repeated"]


def test_a_killed_child_excuses_what_it_ran_last() -> None:
    runs = run(0, A, 1.0, pid=7), run(1, A, 2.0, ends_after=None, pid=7), run(1, A, 4.0), run(0, A, 5.0)
    found = record([job(0), job(1, ordered=False)], *runs, blows=(kill(A, 2.5, kind="child", pid=7),))
    assert [(repeat.number, repeat.excused) for repeat in repeats(found)] == [(0, False), (1, True)]


def test_a_task_that_others_publish_may_run_again_when_they_did() -> None:
    twice = run(0, A, 1.0), run(0, B, 3.0), run(1, B, 1.5), run(1, B, 3.5)
    jobs = [job(0), job(1, after=(0,), ordered=False)]
    assert rules(record(jobs, *twice, blows=(kill(A, 1.2, 0),))) == []
    assert rules(record([job(0), job(1, ordered=False)], *twice, blows=(kill(A, 1.2, 0),))) == ["repeated"]


def test_a_countdown_that_was_cut_short_is_found() -> None:
    assert rules(record([job(0, due=2.0)], run(0, A, 1.5))) == ["early"]


def test_an_end_that_was_not_acknowledged_for_long_is_found_unless_the_worker_stood_still() -> None:
    runs = run(0, A, 1.0), run(0, B, 12.0)
    late = kill(A, 11.0, 0)
    assert rules(record([job(0)], *runs, blows=(late,))) == ["late ack"]
    assert rules(record([job(0)], *runs, blows=(dataclasses.replace(late, frozen_s=8.0),))) == []


def test_a_younger_job_that_begins_first_is_found() -> None:
    jobs = [job(0), job(1), job(2)]
    runs = run(1, A, 1.0), run(2, A, 2.0), run(0, A, 3.0)
    (finding,) = verdicts(record(jobs, *runs))
    assert finding.rule == "disordered"
    assert "job 0 began after 2 younger" in finding.evidence


def test_slots_may_take_neighbours_at_once() -> None:
    runs = run(1, A, 1.0), run(2, A, 2.0), run(0, A, 3.0)
    jobs = [job(0), job(1), job(2)]
    assert rules(record(jobs, *runs, slots={A: 2})) == []
    assert rules(record([*jobs, job(3)], *runs[:2], run(3, A, 2.5), run(0, A, 3.0), slots={A: 1})) == ["disordered"]


def test_a_retry_is_a_new_message_behind_the_others() -> None:
    again = [dataclasses.replace(mark, attempt=1) for mark in run(0, A, 3.0)]
    assert rules(record([job(0), job(1), job(2)], run(1, A, 1.0), run(2, A, 2.0), again)) == []


def test_priorities_and_queues_are_ordered_apart() -> None:
    other = [Job(0, "bulk", 0), Job(1, "celery", 3), job(2)]
    assert rules(record(other, run(2, A, 1.0), run(1, A, 2.0), run(0, A, 3.0))) == []


def test_what_comes_back_from_a_dead_worker_comes_after_what_others_began_meanwhile() -> None:
    jobs = [job(number) for number in range(4)]
    runs = run(2, A, 1.0), run(0, A, 3.0), run(1, A, 4.0), run(3, A, 5.0)
    assert rules(record(jobs, *runs, blows=(kill(B, 1.5, 0, 1),))) == []


def test_what_comes_back_in_the_wrong_order_is_found() -> None:
    jobs = [job(number) for number in range(2)]
    assert rules(record(jobs, run(1, A, 3.0), run(0, A, 4.0), blows=(kill(B, 1.5, 0, 1),))) == ["disordered"]


def test_what_comes_back_behind_younger_ones_is_found() -> None:
    jobs = [job(number) for number in range(4)]
    runs = run(0, A, 2.5), run(1, A, 3.0), run(3, A, 4.0), run(2, A, 5.0)
    assert rules(record(jobs, *runs, blows=(kill(B, 1.5, 0, 1, 2),))) == ["overtaken"]


def test_what_had_begun_or_was_on_its_way_to_a_slot_goes_before_younger_ones_without_the_rest() -> None:
    jobs = [job(number) for number in range(4)]
    runs = run(0, A, 2.5), run(3, A, 3.0), run(1, A, 4.0), run(2, A, 5.0)
    assert rules(record(jobs, *runs, blows=(kill(B, 1.5, 0, 1, 2),))) == []


def test_what_a_worker_had_before_is_late_and_overtakes_nobody() -> None:
    jobs = [job(number) for number in range(4)]
    runs = run(0, A, 2.5), run(1, A, 3.0), run(3, A, 4.0), run(2, A, 5.0)
    assert rules(record(jobs, *runs, blows=(kill(B, 1.5, 0, 1, 2),), seen={3: {A: 1.0}})) == []


def test_what_a_live_worker_handed_back_is_judged_apart() -> None:
    jobs = [job(number) for number in range(3)]
    runs = run(1, A, 1.0), run(2, A, 2.0), run(0, A, 3.0)
    assert rules(record(jobs, *runs, seen={0: {B: 0.5}})) == []


def test_a_spread_says_how_many_how_long_and_the_longest() -> None:
    assert spread([0.1] * 98 + [1.0, 2.0]) == {"n": 100, "p50": 0.1, "p99": 2.0, "max": 2.0}
    assert spread([]) == {}
