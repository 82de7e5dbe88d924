"""Successes that wait: none is lost between threads, none counts under another epoch, and a slow one is looked at."""

from __future__ import annotations

import threading
import time

from resilience.breaker.pending import AT_ONCE, FLUSH_AFTER_S, Pending
from resilience.testing import until


def test_the_first_success_is_sent_and_the_next_ones_wait_for_a_tenth_of_a_second() -> None:
    pending = Pending()
    assert not pending.joins("a", 1, 0.0), "nobody has looked at this circuit yet"
    assert pending.add("a", 1, slow=False, slow_after_s=None) == (1, 0)
    assert pending.joins("a", 1, 0.0)
    assert pending.add("a", 1, slow=False, slow_after_s=None) is None
    until(lambda: not pending.joins("a", 1, 0.0), within_s=10 * FLUSH_AFTER_S)
    sent = pending.add("a", 1, slow=False, slow_after_s=None)
    assert sent is not None
    assert sent[0] >= 3
    assert pending.take_all() == {}


def test_a_slow_success_is_looked_at_and_counted_as_one() -> None:
    pending = Pending()
    pending.add("a", 1, slow=False, slow_after_s=0.5)
    assert pending.joins("a", 1, 0.5)
    assert pending.joins("a", 1, None), "of unknown length"
    assert not pending.joins("a", 1, 0.6)
    assert pending.add("a", 1, slow=True, slow_after_s=0.5) is None
    assert pending.take("a", 1) == (3, 1)
    assert pending.take("a", 1) == (0, 0)


def test_successes_of_another_epoch_do_not_count() -> None:
    pending = Pending()
    pending.add("a", 1, slow=False, slow_after_s=None)
    assert pending.joins("a", 1, None)
    assert not pending.joins("a", 2, None)
    assert pending.take("a", 2) == (0, 0)
    assert not pending.joins("a", 1, None), "the circuit has moved on"


def test_threads_lose_no_success_while_others_take_them_away() -> None:
    pending = Pending()
    started = time.monotonic()
    taken = [1]
    pending.add("a", 1, slow=False, slow_after_s=None)
    stop = threading.Event()

    def count(counted: list[int]) -> None:
        while not stop.is_set():
            if not pending.joins("a", 1, None):
                sent = pending.add("a", 1, slow=False, slow_after_s=None)
                taken.append(sent[0] if sent else 0)
            counted.append(1)

    counts: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=count, args=(counted,)) for counted in counts]
    for thread in threads:
        thread.start()
    while time.monotonic() - started < 3 * FLUSH_AFTER_S:
        taken.append(pending.take("a", 1)[0])
        taken.extend(count for _epoch, count, _slow in pending.take_all().values())
    stop.set()
    for thread in threads:
        thread.join()
    asked = 1 + sum(map(len, counts))
    assert sum(taken) + pending.take("a", 1)[0] == asked


def test_only_a_few_circuits_are_reported_at_once_and_the_others_wait_together() -> None:
    pending = Pending()
    sent = [pending.add(f"a{number}", 1, slow=False, slow_after_s=None) for number in range(3 * AT_ONCE)]
    assert [row for row in sent if row] == [(1, 0)] * AT_ONCE
    assert len(pending.take_all()) == 2 * AT_ONCE
