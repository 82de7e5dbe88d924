"""Celery's Redis result backends, which listen for a result from when somebody waits for it, not from when it is sent.

Celery subscribes to each result at each call and unsubscribes when the call's AsyncResult is dropped: two commands and
a third of the cost of a call. While Redis is away that holds up a caller who may not want the result at all: 20 s
and more, at each end. The subscription buys nothing: everything that waits for a result (`get`, `then`, groups and
result sets) subscribes again and then looks whether the result is there. Two connections may be heard in another
order than they were spoken to, and a push may be lost with its connection; so whoever waits looks again now and then.

And RETRY is stored before the retry is sent. Celery does it after: a retry without a delay may have run elsewhere by
then, its SUCCESS is overwritten, and whoever waits for the result waits for ever.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.app.task import get_actual_ignore_result
from celery.backends.redis import RedisBackend, ResultConsumer, SentinelBackend
from celery.states import RETRY
from celery.utils.serialization import get_pickleable_exception

from signals.redact import describe

logger = logging.getLogger("celeriac")

LOOK_S = 2.0
"""How often somebody who waits for a result looks whether it came unheard."""

_HERE = __name__
_TOLD = "_celeriac_retry_told"

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


class _Quiet:
    ResultConsumer = Listener

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Nothing: see the module."""

    def mark_as_retry(self, task_id: str, exc: Any, traceback: Any = None, request: Any = None, **options: Any) -> Any:
        """Celery's, unless `tell_retry` was there before: by now the result may be that of the retry."""
        if not getattr(request, _TOLD, False):
            return super().mark_as_retry(task_id, exc, traceback, request=request, **options)  # type: ignore[misc]
        return exc


class QuietRedisBackend(_Quiet, RedisBackend):
    """redis:// and rediss://."""


class QuietSentinelBackend(_Quiet, SentinelBackend):
    """sentinel://."""


def tell_retry(task: Any, request: Any, error: BaseException | None, trace: Any = None) -> None:
    """Store that the attempt `request` will be retried because of `error`, where results are kept; call it before the
    retry is sent. `trace` is the error's traceback where that is not the current one. A store that is away is logged,
    and not asked again: it must not stop the retry.
    """
    if get_actual_ignore_result(task, request) and not task.store_errors_even_if_ignored:
        return
    setattr(request, _TOLD, True)
    if trace is None and sys.exc_info()[0]:
        trace = ExceptionInfo().traceback
    try:
        task.backend.store_result(request.id, get_pickleable_exception(error) if error else None, RETRY, trace, request)
    except Exception as trouble:  # noqa: BLE001  whatever a result backend raises, the retry goes on
        logger.warning(
            "celeriac: %s[%s] is retried, but its state is not stored: %s", task.name, request.id, describe(trouble)
        )
