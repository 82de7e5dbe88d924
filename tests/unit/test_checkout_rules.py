"""Safe checkout without workers: the pause after a task found a worker unready, lookouts, the notes on a message."""

from __future__ import annotations

import json
import threading
import time

import pytest

from resilience.testing import until
from resilience.workers.checkout import FIRST_PAUSE_S, LONGEST_PAUSE_S, Lookout, Pause, ReadyCheck, Verdict
from resilience.workers.turned_away import HEADER, told


def test_the_pause_doubles_while_tasks_go_on_finding_the_worker_unready_and_is_bounded() -> None:
    pause, now, lengths = Pause(), 0.0, []
    for _ in range(8):
        pause.begin(now)
        lengths.append(pause.until - now)
        now = pause.until + 1.0
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert (lengths[0], lengths[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)


def test_a_second_task_during_the_pause_does_not_lengthen_it_and_a_calm_minute_ends_the_doubling() -> None:
    pause = Pause()
    pause.begin(0.0)
    pause.begin(0.5)
    assert (pause.until, pause.found_at) == (1.0, 0.5), "but the checks must have looked since then"
    pause.begin(62.0)
    assert pause.until == 63.0


def test_a_check_that_hangs_fails_in_time_gets_no_second_call_and_recovers_with_its_answer() -> None:
    let_go, calls, heard = threading.Event(), [], list[Verdict]()

    def probe() -> None:
        calls.append(time.monotonic())
        let_go.wait()

    lookout = Lookout(ReadyCheck("it", probe, every_s=0.01, timeout_s=0.02), lambda _, verdict: heard.append(verdict))
    lookout.start()
    until(lambda: len(heard) >= 3, what="it goes on judging")
    assert all(verdict.why.startswith("no answer for") for verdict in heard[:3])
    assert len(calls) == 1
    let_go.set()
    until(lambda: heard[-1].why == "", what="it passes")
    lookout.stop()


def test_a_lookout_that_gets_no_thread_for_its_probe_says_so_and_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, heard = threading.Thread.start, list[Verdict]()

    def start(thread: threading.Thread) -> None:
        if thread.name == "celeriac-probe" and len(heard) < 2:
            raise RuntimeError("can't start new thread")
        stock(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    lookout = Lookout(ReadyCheck("it", bool, every_s=0.01), lambda _, verdict: heard.append(verdict))
    lookout.start()
    until(lambda: len(heard) >= 3, what="it goes on judging")
    lookout.stop()
    assert "can't start new thread" in heard[0].why
    assert heard[2].why == "the probe said no"


def test_a_verdict_is_late_when_nobody_looked_for_much_longer_than_agreed() -> None:
    lookout = Lookout(ReadyCheck("it", bool, every_s=5.0, timeout_s=2.0), lambda *_: None)
    lookout.verdict = Verdict("", asked_at=100.0)
    assert lookout.late_s(110.9) < 0
    assert lookout.late_s(111.1) > 0, "5 s, twice 2 s, and 2 s more"


@pytest.mark.parametrize("mangled", [None, 7, "x", [], [1], ["many", 0], [1, float("inf")], {"a": 1}])
def test_a_mangled_note_counts_as_none(mangled: object) -> None:
    times, since = told({HEADER: mangled})
    assert times == 0
    assert abs(since - time.time()) < 5
    assert told(json.loads(json.dumps({HEADER: [3, 12.5]}))) == (3, 12.5)


def test_a_note_by_a_clock_that_is_ahead_counts_from_now_or_its_task_would_circle_for_ever() -> None:
    times, since = told({HEADER: [9, time.time() + 1e9]})
    assert times == 9
    assert since <= time.time()
