"""The instant at which a task's message is acknowledged or rejected: noted at once, in whichever thread it ended.

Celery hands that to its event loop. A loop that stands between two connections forgets what it was handed, so that a
task of a threads pool that ended then would run again. What this worker holds is safe to settle from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker import state as worker_state

from resilience.delivery.starts import held_of


def settle_at_once(consumer: Any) -> None:
    """Have `consumer` settle what this worker holds without its loop. Called before it makes its task handler."""
    for name in ("call_soon_ack", "call_soon"):  # the second is an older Celery's
        later = getattr(consumer, name, None)
        if later is not None:
            setattr(consumer, name, _at_once(later))


def _at_once(later: Callable[..., Any]) -> Callable[..., Any]:
    def settle_soon(settle: Callable[..., Any], *args: Any) -> Any:
        if held_of(getattr(settle, "__self__", None)) is None:
            return later(settle, *args)
        return settle(*args)

    return settle_soon


def stops_cold() -> bool:
    """Whether this worker is in a cold shutdown: it ends what it runs, where it can, and begins nothing more."""
    return worker_state.should_terminate not in (None, False)  # an exit code, of which 0 is one
