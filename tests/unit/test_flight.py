"""Which lines are sent again: the lost ones, not those that only wait in a long queue."""

from __future__ import annotations

from tasks.flight import Flight
from tasks.prompts import Prompt


def flight_of(count: int, at: float = 0.0) -> Flight:
    flight = Flight(moved_at=float("-inf"))
    for number in range(1, count + 1):
        flight.sent(Prompt(number, "q"), at=at)
    return flight


def overdue(flight: Flight, now: float) -> list[int]:
    return [line.prompt.number for line in flight.overdue(now, after_s=30.0)]


def test_a_line_that_was_overtaken_is_sent_again_once_it_is_old_enough() -> None:
    flight = flight_of(3)
    flight.ended(2, now=25.0)
    assert overdue(flight, now=29.9) == []
    assert overdue(flight, now=30.0) == [1]


def test_lines_that_only_wait_behind_others_are_left_alone_while_something_moves() -> None:
    flight = flight_of(3)
    flight.ended(1, now=25.0)
    assert overdue(flight, now=50.0) == []


def test_when_nothing_moves_every_old_line_is_sent_again() -> None:
    flight = flight_of(3)
    flight.ended(1, now=25.0)
    assert overdue(flight, now=55.0) == [2, 3]


def test_a_line_sent_again_waits_anew() -> None:
    flight = flight_of(1)
    flight.sent(Prompt(1, "q"), at=30.0)
    assert overdue(flight, now=59.9) == []
    assert overdue(flight, now=60.0) == [1]


def test_a_task_that_is_known_to_retry_gets_more_patience() -> None:
    flight = flight_of(2)
    flight.seen(1, mark=7, now=10.0)
    flight.ended(2, now=20.0)
    assert overdue(flight, now=129.9) == []
    assert overdue(flight, now=130.0) == [1]


def test_the_time_of_a_broker_that_was_away_does_not_count() -> None:
    flight = flight_of(2)
    flight.excuse(now=100.0)
    assert overdue(flight, now=129.9) == []
    assert overdue(flight, now=130.0) == [1, 2]


def test_lines_found_in_the_ledger_long_after_their_send_are_overdue_at_once() -> None:
    assert overdue(flight_of(2, at=-3600.0), now=0.0) == [1, 2]


def test_a_line_that_was_never_published_is_not_overdue() -> None:
    flight = flight_of(1)
    flight.lines[1].unsent = True
    assert overdue(flight, now=100.0) == []
