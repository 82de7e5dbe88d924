"""huey on Redis: it pops a message and acknowledges nothing, so a killed worker loses what it runs."""

from __future__ import annotations

import os

from huey import RedisHuey
from ran import ran

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], results=False)


@huey.task(name="ran")
def task() -> None:
    ran()


def send(count: int) -> None:
    for _ in range(count):
        task()
