"""What a worker's pool is doing: the requests that it runs, the slots that are free, whether it is being stopped."""

from __future__ import annotations

from typing import Any

from celery.worker import state as worker_state


def running_requests() -> list[Any]:
    """The requests that this worker's pool is running now; from any thread."""
    while True:
        try:
            return list(worker_state.active_requests)
        except RuntimeError:  # noqa: PERF203  the set changed while it was read: read it again
            continue


def running_tags() -> set[str]:
    """Their messages' delivery tags."""
    return {request.message.delivery_tag for request in running_requests()}


def stopping() -> bool:
    """Whether this worker was asked to stop."""
    stops = (worker_state.should_stop, worker_state.should_terminate)  # exit codes, of which 0 is one
    return any(stop is not None and stop is not False for stop in stops)


def is_free(consumer: Any) -> bool:
    """Whether the pool could run one more task, and nothing in the worker waits for it, not even for a rate limit."""
    if consumer is None or consumer.pool is None or stopping():
        return False
    limited = any(bucket is not None and bucket.contents for bucket in list(consumer.task_buckets.values()))
    return not limited and len(worker_state.active_requests) < (getattr(consumer.pool, "limit", None) or 1)
