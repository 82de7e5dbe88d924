"""What sending a task costs: one by one and many at once, beside stock Celery and beside other task queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import kombu.pools
from celery import Celery
from dramatiq.brokers.redis import RedisBroker
from huey import RedisHuey
from taskiq_redis import ListQueueBroker

from resilience import Resilience, send_all
from tests.bench.harness import Batch, Contender, Table, interleave, repeated, timed
from tests.bench.peers import Call, Stage

REFERENCE = "celery"


def tables(stage: Stage) -> list[Table]:
    with _celery(stage) as (stock, ours), _others(stage) as others:
        return [one_by_one(stage, stock, ours, others), wanted_results(stage, stock, ours), many(stage, stock, ours)]


def one_by_one(stage: Stage, stock: Tasks, ours: Tasks, others: list[Contender]) -> Table:
    """`delay()` of a task whose result nobody wants."""
    contenders = [
        _calling(stage, REFERENCE, lambda: stock.plain.delay(1, b="two")),
        _calling(stage, "celeriac", lambda: ours.plain.delay(1, b="two")),
        _calling(stage, "celeriac: circuit, fallback", lambda: ours.guarded.delay(1, b="two")),
        _calling(stage, "celeriac: by name", lambda: ours.app.send_task("plain", (1,), {"b": "two"})),
        *others,
    ]
    return Table(
        "A task is sent",
        "CPU: of the calling process. The others' messages carry less: no representation of the arguments, no stamps, "
        "no ancestors, no routing.",
        interleave(contenders, stage.size.rounds),
        REFERENCE,
        "CPU us",  # the wall adds what other programs took while the broker answered
    )


def wanted_results(stage: Stage, stock: Tasks, ours: Tasks) -> Table:
    """`delay()` of a task with a result in Redis."""
    contenders = [
        _calling(stage, REFERENCE, lambda: stock.wanted.delay(1, b="two")),
        _calling(stage, "celeriac", lambda: ours.wanted.delay(1, b="two")),
    ]
    return Table(
        "A task is sent whose result is kept",
        "Celery subscribes to each result when it is sent, celeriac when somebody waits for it.",
        interleave(contenders, stage.size.rounds),
        REFERENCE,
        "CPU us",
    )


def many(stage: Stage, stock: Tasks, ours: Tasks) -> Table:
    """A list of signatures is sent."""
    calls = 5 * stage.size.remote_calls

    def loop(task: Any) -> Batch:
        signatures = [task.s(number, b="two") for number in range(calls)]

        def batch() -> int:
            for signature in signatures:
                signature.apply_async()
            return calls

        return batch

    def bulk(task: Any) -> Batch:
        signatures = [task.s(number, b="two") for number in range(calls)]
        return lambda: len(send_all(signatures))

    contenders = [
        _measured(stage, REFERENCE, loop(stock.plain)),
        _measured(stage, "celeriac: the same loop", loop(ours.plain)),
        _measured(stage, "celeriac: send_all", bulk(ours.plain)),
        _measured(stage, "celeriac: send_all, circuit, fallback", bulk(ours.guarded)),
        _measured(stage, "celeriac: send_all, results kept", bulk(ours.wanted)),
    ]
    return Table(
        "Many tasks are sent",
        f"Per task, of {calls} signatures; celery: apply_async in a loop.",
        interleave(contenders, stage.size.rounds),
        REFERENCE,
        "CPU us",
    )


class Tasks:
    """The same tasks for stock Celery and for ours."""

    def __init__(self, url: str, *, resilient: bool) -> None:
        self.app = Celery("bench", broker=url, backend=f"{url.rsplit('/', 1)[0]}/1", set_as_current=False)
        own: dict[str, Any] = {}
        if resilient:
            self.resilience = Resilience(self.app)
            own = {"circuit": "bench", "fallback": ["fallback"]}
        self.plain = self.app.task(_work, name="plain", shared=False, ignore_result=True)
        self.guarded = self.app.task(_work, name="guarded", shared=False, ignore_result=True, **own)
        self.wanted = self.app.task(_work, name="wanted", shared=False)


def _work(a: int, b: str) -> None:
    """Never run."""


@contextmanager
def _celery(stage: Stage) -> Iterator[tuple[Tasks, Tasks]]:
    stock, ours = Tasks(stage.url, resilient=False), Tasks(stage.url, resilient=True)
    try:
        yield stock, ours
    finally:
        ours.resilience.breakers.close()
        for tasks in (stock, ours):
            tasks.app.backend.result_consumer.stop()
            tasks.app.backend.client.close()
            tasks.app.close()
        kombu.pools.reset()


@contextmanager
def _others(stage: Stage) -> Iterator[list[Contender]]:
    broker = RedisBroker(url=stage.url)
    actor = dramatiq.actor(_work, broker=broker)
    huey = RedisHuey("bench", url=stage.url)
    hueys = huey.task()(_work)
    queue = ListQueueBroker(stage.url)
    tasked = queue.task(_work)
    stage.finish(queue.startup())

    async def kick() -> None:
        await tasked.kiq(1, b="two")

    try:
        yield [
            _calling(stage, "dramatiq", lambda: actor.send(1, b="two")),
            _calling(stage, "huey", lambda: hueys(1, b="two")),
            _calling(stage, "taskiq (async)", kick, awaited=True),
        ]
    finally:
        stage.finish(queue.shutdown())
        broker.close()
        huey.storage.conn.close()
        huey.storage.pool.disconnect()


def _calling(stage: Stage, name: str, call: Call, *, awaited: bool = False) -> Contender:
    calls = stage.size.remote_calls
    return _measured(stage, name, stage.batch([call] * calls, awaited=True) if awaited else repeated(call, calls))


def _measured(stage: Stage, name: str, batch: Callable[[], int]) -> Contender:
    def measure() -> dict[str, float]:
        stage.clear()
        return timed(batch, stage.meter)

    return Contender(name, measure)
