"""taskiq on a Redis list: it pops a message and acknowledges nothing, so a killed worker loses what it runs."""

from __future__ import annotations

import asyncio
import os

from ran import ran
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(os.environ["BENCH_REDIS"])


@broker.task(task_name="ran")
async def task() -> None:
    ran()


def send(count: int) -> None:
    asyncio.run(_send(count))


async def _send(count: int) -> None:
    await broker.startup()
    for _ in range(count):
        await task.kiq()
    await broker.shutdown()
