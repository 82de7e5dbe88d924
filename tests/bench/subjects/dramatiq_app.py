"""dramatiq on Redis: it acknowledges when a task has ended, as celeriac does."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from ran import ran

broker = RedisBroker(url=os.environ["BENCH_REDIS"])
dramatiq.set_broker(broker)
task = dramatiq.actor(ran, broker=broker)


def send(count: int) -> None:
    for _ in range(count):
        task.send()
