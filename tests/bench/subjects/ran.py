"""The work of every measured task: it notes that it ran and does nothing else, at the price of one short write.

Each run appends eight bytes to the file BENCH_RAN: how many nanoseconds after `sent_ns` (of CLOCK_MONOTONIC, which all
processes of a machine share) it began.
"""

from __future__ import annotations

import os
import struct
import time

RECORD = struct.Struct("=q")
_FILE = os.open(os.environ["BENCH_RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def ran(sent_ns: int = 0) -> None:
    os.write(_FILE, RECORD.pack(time.monotonic_ns() - sent_ns))
