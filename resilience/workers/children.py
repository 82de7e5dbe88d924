"""What a prefork pool does not see of its processes: that one has ended, at once; and that all end at birth.

The kernel closes a process's pipes before it can be waited for. Celery looks once when the pipe is closed; where that
was too early it looks again with its next round, up to 5 s later: until then a slot is missing, and the task of the
dead one waits. And it starts a new process for each that ends, for ever; where none lives to take a task, tasks would
lie in the worker that cannot run them, so it takes none either.
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

LOOK_AGAIN_S, LOOK_NO_MORE_S = 0.005, 1.0
"""When a process whose pipe is closed is looked at again; each time after twice as long, up to the second."""

_POOL = "the pool"
_WHY = "none of its pool's processes takes tasks: they end before they begin one, its log says why"


def see_ends_at_once(pool: Any) -> None:
    """Called before the pool's processes are watched by the loop."""
    engine: Any = getattr(pool, "_pool", None) if isinstance(pool, PreforkPool) else None
    stock = getattr(engine, "_event_process_exit", None)
    if stock is None or hasattr(stock, "again"):
        return

    def process_exit(hub: Any, process: Any) -> None:
        stock(hub, process)
        look_again(hub, process, LOOK_AGAIN_S)

    def look_again(hub: Any, process: Any, wait_s: float) -> None:
        if process in engine._pool and wait_s < LOOK_NO_MORE_S:  # noqa: SLF001  the prefork pool has no public face for this
            hub.call_later(wait_s, look, hub, process, wait_s)

    def look(hub: Any, process: Any, waited_s: float) -> None:
        engine.maintain_pool()
        look_again(hub, process, 2 * waited_s)

    process_exit.again = True  # type: ignore[attr-defined]
    engine._event_process_exit = process_exit  # noqa: SLF001  the same


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
