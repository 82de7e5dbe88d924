"""The instant at which a task begins to run: noted on the server before the task can do harm, or refused.

Prefork and solo begin a task when the pool is given it. Pools that queue tasks inside (threads, greenlets) begin one
when they accept it, which is when Celery calls the request's `on_accepted`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import TaskRevokedError

from resilience.delivery.envelope import redelivered
from resilience.delivery.held import Held


def watch(pool: Any, held: Held) -> None:
    """Have `pool` ask `held` before it begins a task. Called before Celery looks up the pool's `apply_async`."""
    if not (pool.uses_semaphore or isinstance(pool, SoloPool)):
        held.begins_on_accept = True
        return
    stock = pool.apply_async

    def apply_async(*args: Any, **options: Any) -> Any:
        request: Any = getattr(options.get("accept_callback"), "__self__", None)
        mine = held_of(getattr(request, "message", None))
        if mine is None:
            return stock(*args, **options)
        tag = request.message.delivery_tag
        _begin(mine, request, tag)
        job = stock(*args, **options)
        if job is not None:
            mine.given(tag, job)
        return job

    pool.apply_async = apply_async


def keep_what_is_written(pool: Any) -> None:
    """Have a prefork pool, which has started, keep the tasks that it wrote to a child when the consumer reconnects.

    Celery has it forget those that no child has accepted yet, but a child runs what was written to it all the same.
    The pool must go on knowing of them, so that their end is heard: their messages stay claimed.
    """
    if not isinstance(pool, PreforkPool) or hasattr(pool.flush, "keeps"):
        return
    stock, engine = pool.flush, pool._pool  # noqa: SLF001  the prefork pool has no public face for this

    def flush() -> None:
        jobs = list(engine._cache.values())  # noqa: SLF001  the same; a pool that was terminated has none any more
        written = [job for job in jobs if not job._accepted and job._write_to is not None]  # noqa: SLF001  the same
        for job in written:
            job._accepted = True  # noqa: SLF001  the same
        try:
            stock()
        finally:
            for job in written:
                job._accepted = False  # noqa: SLF001  the same

    flush.keeps = True  # type: ignore[attr-defined]
    pool.flush = flush


def when_terminated(pool: Any, then: Callable[[], None]) -> None:
    """Call `then` when a prefork pool has killed its children, of which a cold shutdown gives no other sign."""
    if not isinstance(pool, PreforkPool) or hasattr(pool.terminate, "told"):
        return
    stock = pool.terminate

    def terminate() -> None:
        stock()
        then()

    terminate.told = True  # type: ignore[attr-defined]
    pool.terminate = terminate


def accepted(request: Any) -> None:
    """A pool of this very process begins the task of this request."""
    held = held_of(request.message)
    if held is not None and held.begins_on_accept:
        _begin(held, request, request.message.delivery_tag)


def cancelled(request: Any) -> None:
    """The child that ran the task of this cancelled request is gone: now, and not before, others may run it."""
    held = held_of(request.message)
    if held is not None:
        held.give_back(request.message.delivery_tag, redelivered)


def held_of(message: Any) -> Held | None:
    """What this worker holds, if the message is of it."""
    return getattr(message, "held", None)


def _begin(held: Held, request: Any, tag: str) -> None:
    if not held.start(tag):
        raise TaskRevokedError(f"{request.id} is not begun: its message may be another worker's by now")
    if held.blocks or held.begins_on_accept:
        held.say_started()  # no turn of the loop comes between here and the task
