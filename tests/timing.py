"""How long something takes, for bounds that hold on a machine with other things to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def timed(call: Callable[[], object]) -> float:
    """Seconds that it took, without those in which this process had something to run and got no processor.

    For upper bounds: while one thread got none another may rightly have waited.
    """
    began, waited = time.monotonic(), _waited_s()
    call()
    return time.monotonic() - began - max(0.0, _waited_s() - waited)


def _waited_s() -> float:
    """Of all threads, since the process began; 0 where the system does not count it."""
    nanoseconds = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        try:
            nanoseconds += int(thread.read_text().split()[1])
        except OSError:  # noqa: PERF203  it ended while the others were read
            continue
    return nanoseconds / 1e9
