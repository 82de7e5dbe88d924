"""What a task says itself about its retries, in Celery's own options: the user's word wins over the matrix."""

from __future__ import annotations

from typing import Any

from celery.utils.time import get_exponential_backoff_interval

OWN_MODULES = ("celery.", "resilience.")


def option(task: Any, name: str, default: Any = None) -> Any:
    """A class attribute that the task or a base of the user's set; Celery's own defaults say nothing."""
    for cls in type(task).__mro__:
        if not cls.__module__.startswith(OWN_MODULES) and name in vars(cls):
            return vars(cls)[name]
    return default


def decides(task: Any, error: Exception) -> bool:
    """Whether the task has settled what becomes of this failure: nothing is retried or reported by us then.

    `autoretry_for` says what is retried, and what reached us was not; `throws` names answers, which are no trouble.
    """
    return bool(getattr(task, "autoretry_for", ())) or isinstance(error, tuple(getattr(task, "throws", None) or ()))


def max_retries(task: Any) -> int | None:
    """`max_retries` if it was set; Celery's None, which means without end, as a large number."""
    unset = object()
    value = option(task, "max_retries", unset)
    if value is unset:
        return None
    return 1_000_000 if value is None else int(value)


def delay_s(task: Any, retries: int) -> float | None:
    """Seconds before retry number `retries` + 1 by the task's `retry_backoff` or `default_retry_delay`, if set."""
    backoff = option(task, "retry_backoff")
    if not backoff:
        delay = option(task, "default_retry_delay")
        return None if delay is None else float(delay)
    return float(
        get_exponential_backoff_interval(
            factor=int(max(1.0, backoff)),
            retries=retries,
            maximum=int(option(task, "retry_backoff_max", 600)),
            full_jitter=bool(option(task, "retry_jitter", True)),
        )
    )
