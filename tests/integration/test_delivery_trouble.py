"""Redis dies, freezes or forgets its scripts under load: nothing is lost, nothing storms, workers are back in seconds.

In every test a worker of each pool works; the tasks' own book lies in a Redis that nothing happens to.
"""

from __future__ import annotations

import time

import pytest

from resilience.testing import until
from tests.integration.trouble_kit import BACK_WITHIN_S, Publisher, Trouble, book_server, trouble

__all__ = ["book_server", "trouble"]  # fixtures

AWAY_S = 3.0
FROZEN_S = 5.0


@pytest.fixture
def load(trouble: Trouble) -> Publisher:
    """A backlog and more to come, for the three workers that it starts."""
    trouble.start_one_of_each_pool()
    publisher = trouble.publisher()
    publisher.send(200, 0.01)
    publisher.keep_sending(per_s=30, for_s=0.01)
    until(lambda: len(trouble.book.back_after_s(0)) == 3, what="all are at work")
    return publisher


def pause(seconds: float) -> None:
    """The trouble itself lasts so long."""
    time.sleep(seconds)


def test_a_killed_redis_that_comes_back_from_its_file_loses_nothing(trouble: Trouble, load: Publisher) -> None:
    trouble.server.kill()
    pause(AWAY_S)
    trouble.server.restart()
    back = time.time()
    took = trouble.until_all_work_again(back)
    trouble.until_done(load)
    assert max(took.values()) < BACK_WITHIN_S
    assert not trouble.book.repeats(), "what ran ends where it ran, and is told to the server that came back"


def test_a_redis_that_freezes_for_five_seconds_loses_and_repeats_nothing(trouble: Trouble, load: Publisher) -> None:
    trouble.server.freeze()
    pause(FROZEN_S)
    trouble.server.thaw()
    took = trouble.until_all_work_again(time.time())
    trouble.until_done(load)
    assert max(took.values()) < BACK_WITHIN_S
    assert not trouble.book.repeats()


def test_flushed_scripts_under_load_go_unnoticed(trouble: Trouble, load: Publisher) -> None:
    for _ in range(20):
        trouble.broker.script_flush()
        pause(0.05)
    trouble.until_done(load)
    assert not trouble.book.repeats()
    assert not any("Connection to broker lost" in worker.log() for worker in trouble.workers)
