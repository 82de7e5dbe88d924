"""Chords survive the death of who runs their last part: of the worker, and of a pool child.

In Celery 5.7 the part that ends last claims the right to start the body, for 6 s and more. A worker that dies between
claim and start leaves the claim behind. Stock redelivery comes an hour later, when it has lapsed; ours comes within
two seconds, is refused, and the body would never run. A child that dies after it stored its success is not run again
at all; the chord must be told for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import states
from celery.backends import redis as celery_redis

from resilience import lua
from resilience.delivery.broker import BROKER_ERRORS
from signals.redact import describe

logger = logging.getLogger("celeriac")

_STOCK = getattr(celery_redis, "CHORD_PART_RETURN_LUA", "")


def with_chords_that_go_on(make_backend: Callable[[], Any], wanted: Callable[[], bool]) -> Callable[[], Any]:
    """Celery's maker of result backends; those on Redis let a part's next run go on where the last one died."""

    def make() -> Any:
        backend = make_backend()
        if _STOCK and isinstance(backend, celery_redis.RedisBackend) and wanted():
            vars(backend)["_chord_part_return_script"] = _part_returns()  # a cached property of the class
        return backend

    return make


def part_ended(request: Any, context: Any, result: Any) -> bool:
    """Tell the chord of a part whose child was lost after it had stored its success; False if that failed.

    Only on Redis, where to tell twice does nothing.
    """
    backend = request.task.backend
    if not context.chord or not isinstance(backend, celery_redis.RedisBackend):
        return True
    try:
        backend.on_chord_part_return(context, states.SUCCESS, result)
    except BROKER_ERRORS as error:
        logger.warning(
            "celeriac: %s runs again, its chord could not be told that it ended: %s", request.id, describe(error)
        )
        return False
    return True


def _part_returns() -> Callable[..., Any]:
    source = f"local function stock()\n{_STOCK}\nend\n{lua.source(__package__, 'chord.lua')}"
    registered: list[Any] = []

    def part_returns(keys: list[Any], args: list[Any], client: Any) -> Any:
        if not registered:
            registered.append(client.register_script(source))
        claim = keys[5]
        by = claim + (b".by" if isinstance(claim, bytes) else ".by")
        return registered[0](keys=[*keys, by], args=args, client=client)

    return part_returns
