"""Celery's pool of threads without the count of idle ones: each task had every thread wait for one lock twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any


class _NobodyIsIdle:
    """In the place of the executor's semaphore: it begins a thread for each task until it has all of them."""

    def acquire(self, **_: float) -> bool:
        return False

    def release(self) -> None:
        """A thread is idle; nobody asks for that."""


def count_no_idle(pool: Any) -> None:
    """Have a pool of threads start all of them with its first tasks; any other pool stays as it is."""
    executor = getattr(pool, "executor", None)
    if type(executor) is ThreadPoolExecutor and hasattr(executor, "_idle_semaphore"):
        vars(executor)["_idle_semaphore"] = _NobodyIsIdle()  # there is no public way, and a Python without it is well
