"""Processes that a bench starts: spawned, each with a line to the bench, ended with it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_STARTS_WITHIN_S = 60.0
READY = "ready"


@contextmanager
def fleet(count: int, work: Callable[..., None], *arguments: Any) -> Iterator[list[Connection]]:
    """`count` processes that run `work(line, *arguments)`; each has said READY on its line when the block begins.

    At the end each line is closed, which `work` takes as the word to return.
    """
    context = multiprocessing.get_context("spawn")
    lines, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
            process.start()
            theirs.close()
            lines.append(ours)
            processes.append(process)
        for line, process in zip(lines, processes, strict=True):
            if not line.poll(_STARTS_WITHIN_S) or line.recv() != READY:
                raise RuntimeError(f"bench process {process.pid} did not get ready")
        yield lines
    finally:
        for line in lines:
            line.close()
        for process in processes:
            process.join(10.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
