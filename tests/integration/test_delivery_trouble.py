"""Redis dies, freezes or forgets its scripts under load: nothing is lost, nothing storms, workers are back in seconds.

In every test a worker of each pool works; the tasks' own book lies in a Redis that nothing happens to.
"""

from __future__ import annotations

import time

from tests.integration.trouble_kit import Publisher, Trouble, _fleet, assert_in_time, book_server, fleet, load

__all__ = ["_fleet", "book_server", "fleet", "load"]  # fixtures

AWAY_S = 3.0
FROZEN_S = 5.0


def pause(seconds: float) -> None:
    """The trouble itself lasts so long."""
    time.sleep(seconds)


def test_a_killed_redis_that_comes_back_from_its_file_loses_nothing(fleet: Trouble, load: Publisher) -> None:
    fleet.server.kill()
    pause(AWAY_S)
    fleet.server.restart()
    back = time.time()
    took = fleet.until_all_work_again(back)
    fleet.until_done(load)
    assert_in_time(took)
    assert not fleet.book.repeats(), "what ran ends where it ran, and is told to the server that came back"


def test_a_redis_that_freezes_for_five_seconds_loses_and_repeats_nothing(fleet: Trouble, load: Publisher) -> None:
    fleet.server.freeze()
    pause(FROZEN_S)
    fleet.server.thaw()
    took = fleet.until_all_work_again(time.time())
    fleet.until_done(load)
    assert_in_time(took)
    assert not fleet.book.repeats()


def test_flushed_scripts_under_load_go_unnoticed(fleet: Trouble, load: Publisher) -> None:
    for _ in range(20):
        fleet.broker.script_flush()
        pause(0.05)
    fleet.until_done(load)
    assert not fleet.book.repeats()
    assert not any("Connection to broker lost" in line for lines in fleet.said().values() for line in lines)


def test_a_redis_that_somebody_emptied_is_worked_on(fleet: Trouble, load: Publisher) -> None:
    """The messages are gone with the rest; who holds what is written anew."""
    fleet.broker.flushall()
    emptied, before = time.time(), max(load.sent) + 1
    fleet.until_all_work_again(emptied)
    load.sent = {number for number in load.sent if number > before}
    fleet.until_done(load)
    assert_in_time(fleet.book.back_after_s(emptied, above=before))
