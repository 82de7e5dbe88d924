"""An app that only sends, and what lies in its broker's lists."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu.pools
import redis
from celery import Celery

from resilience import Resilience


@contextmanager
def sender(url: str, *, resilient: bool = True, **conf: Any) -> Iterator[Any]:
    """A plain task of an app without a result backend, unless `conf` names one."""
    app = Celery("sender", broker=url, set_as_current=False)
    app.conf.update(conf)
    if resilient:
        Resilience(app)
    try:
        yield app.task(_work, name="plain", shared=False)
    finally:
        kombu.pools.reset()
        app.close()


def _work(a: Any = None, b: Any = None) -> None:
    """Never run."""


def numbers(url: str, queue: str = "celery") -> list[Any]:
    """The first arguments of a queue's messages, oldest first."""
    with redis.Redis.from_url(url) as client:
        raws = client.lrange(queue, 0, -1)
    return [json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0] for raw in reversed(raws)]


def commands(url: str) -> dict[str, int]:
    """What the server ran since `forget_commands`, but for looking."""
    with redis.Redis.from_url(url) as client:
        ran = client.info("commandstats")
    looks = ("info", "config", "hello", "client", "select", "ping")
    names = {name.removeprefix("cmdstat_").partition("|")[0]: row["calls"] for name, row in ran.items()}
    return {name: calls for name, calls in names.items() if name not in looks}


def forget_commands(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.config_resetstat()
