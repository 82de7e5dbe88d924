"""Celery's Redis result backends, which listen for a result from when somebody waits for it, not from when it is sent.

Celery subscribes to each result at each call and unsubscribes when the call's AsyncResult is dropped: two commands and
a third of the cost of a call. While Redis is away that holds up a caller who may not want the result at all: 20 s
and more, at each end. The subscription buys nothing: everything that waits for a result (`get`, `then`, groups and
result sets) subscribes again and then looks whether the result is there. Two connections may be heard in another
order than they were spoken to, and a push may be lost with its connection; so whoever waits looks again now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.backends.redis import RedisBackend, ResultConsumer, SentinelBackend

LOOK_S = 2.0
"""How often somebody who waits for a result looks whether it came unheard."""

_HERE = __name__

BACKENDS = {
    "redis": f"{_HERE}:QuietRedisBackend",
    "rediss": f"{_HERE}:QuietRedisBackend",
    "sentinel": f"{_HERE}:QuietSentinelBackend",
}
"""For a loader's `override_backends`: by the scheme of a result backend's URL."""


class Listener(ResultConsumer):
    """Celery's consumer of results, which does not rely on having heard everything."""

    def _wait_for_pending(
        self, result: Any, timeout: float | None = None, on_interval: Callable[[], Any] | None = None, **options: Any
    ) -> Any:
        looked = time.monotonic()

        def look_again() -> None:
            nonlocal looked
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                self.on_wait_for_pending(result)
            if on_interval is not None:
                on_interval()

        # who wants to be told of each message must not be told twice
        quiet = on_interval if options.get("on_message") else look_again
        return super()._wait_for_pending(result, timeout=timeout, on_interval=quiet, **options)


class _ListensLater:
    ResultConsumer = Listener

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: see the module."""


class QuietRedisBackend(_ListensLater, RedisBackend):
    """redis:// and rediss://."""


class QuietSentinelBackend(_ListensLater, SentinelBackend):
    """sentinel://."""
