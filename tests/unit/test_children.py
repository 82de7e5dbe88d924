"""A pool process whose pipe is closed before it can be waited for is looked at again soon, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.concurrency.prefork import TaskPool

from resilience.workers.children import LOOK_NO_MORE_S, see_ends_at_once


class Engine:
    """As much of Celery's as sees its processes end: this one can be waited for at the given look."""

    def __init__(self, at_look: int) -> None:
        self._pool = ["process"]
        self._at_look = at_look
        self.looks = 0

    def maintain_pool(self) -> None:
        self.looks += 1
        if self.looks == self._at_look:
            self._pool.clear()

    def _event_process_exit(self, hub: object, process: object) -> None:
        self.maintain_pool()


class Clock:
    """The loop's timers, run one after the other."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Callable[[], None]] = []

    def call_later(self, wait_s: float, call: Callable[..., None], *args: Any) -> None:
        def ring() -> None:
            self.now_s += wait_s
            call(*args)

        self.timers.append(ring)

    def run(self) -> None:
        while self.timers:
            self.timers.pop()()


@pytest.mark.parametrize(("at_look", "looks"), [(1, 1), (3, 3), (99, 9)])
def test_it_is_looked_at_until_it_has_ended(at_look: int, looks: int) -> None:
    pool, engine, clock = TaskPool(1), Engine(at_look), Clock()
    pool._pool = engine
    for _ in range(2):  # the consumer connects again
        see_ends_at_once(pool)
    engine._event_process_exit(clock, "process")
    clock.run()
    assert engine.looks == looks
    assert clock.now_s < 2 * LOOK_NO_MORE_S


def test_other_pools_have_no_such_processes() -> None:
    see_ends_at_once(object())
    see_ends_at_once(TaskPool(1))  # not started yet
