"""A prefork pool whose processes end before they take a task: its worker takes none either, until one lives.

Celery starts a new process for each that ends, for ever; meanwhile tasks would lie in the worker that cannot run them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.concurrency.prefork import TaskPool as PreforkPool

from resilience.workers.slots import stopping

if TYPE_CHECKING:
    from resilience.workers.rotation import Rotation

PATIENCE_S = 2.0
"""A new process takes some time to be ready."""

_POOL = "the pool"
_WHY = "none of its pool's processes takes tasks: they end before they begin one, its log says why"


def look_after_children(pool: Any, rotation: Rotation) -> Callable[[], None]:
    """What the consumer's loop is to call now and then."""
    alone_since: float | None = None

    def look() -> None:
        nonlocal alone_since
        if _has_children(pool) or stopping():
            alone_since = None
            rotation.return_to_rotation(by=_POOL)
            return
        now = time.monotonic()
        alone_since = now if alone_since is None else alone_since
        if now - alone_since > PATIENCE_S:
            rotation.leave_rotation(_WHY, by=_POOL)

    return look


def _has_children(pool: Any) -> bool:
    """Whether a process is there to write tasks to, or none is wanted: autoscaling begins with none."""
    engine = getattr(pool, "_pool", None) if isinstance(pool, PreforkPool) else None
    ready = getattr(engine, "_fileno_to_inq", None)
    return ready is None or bool(ready) or not getattr(engine, "_processes", 0)
