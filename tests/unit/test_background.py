"""A sink in a thread of its own still gets what a short-lived process has to say."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

from signals.background import END_WITHIN_S

PROGRAM = """
    import sys, time
    from signals.background import Background
    from signals.events import StoreAway

    def sink(event):
        time.sleep(float(sys.argv[1]))
        print(event.error, flush=True)

    Background(sink)(StoreAway("the last word"))
"""


def program(sink_takes_s: float) -> tuple[str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(sink_takes_s)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout.strip(), time.monotonic() - began


def test_an_event_of_a_process_that_ends_at_once_still_reaches_the_sink() -> None:
    said, _ = program(sink_takes_s=0.2)
    assert said == "the last word"


def test_a_dead_sink_holds_up_the_end_of_a_process_only_for_a_moment() -> None:
    said, took_s = program(sink_takes_s=60)
    assert said == ""
    assert took_s < END_WITHIN_S + 5
