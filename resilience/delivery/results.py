"""Celery's Redis result backends, which listen for a result from when somebody waits for it, not from when it is sent.

Celery subscribes to each result at each call and unsubscribes when the call's AsyncResult is dropped: two commands and
a third of the cost of a call. While Redis is away that holds up a caller who may not want the result at all: 20 s
and more, at each end. The subscription buys nothing: everything that waits for a result (`get`, `then`, groups and
result sets) subscribes again and then looks whether the result is there.
"""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend, SentinelBackend

_HERE = __name__

BACKENDS = {
    "redis": f"{_HERE}:QuietRedisBackend",
    "rediss": f"{_HERE}:QuietRedisBackend",
    "sentinel": f"{_HERE}:QuietSentinelBackend",
}
"""For a loader's `override_backends`: by the scheme of a result backend's URL."""


class _ListensLater:
    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: see the module."""


class QuietRedisBackend(_ListensLater, RedisBackend):
    """redis:// and rediss://."""


class QuietSentinelBackend(_ListensLater, SentinelBackend):
    """sentinel://."""
