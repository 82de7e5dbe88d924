"""The publisher: a stock Celery app that keeps the workers busy with numbered jobs of all sorts until told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from celery import Celery, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.canvas import Signature

from tests.chaos.record import Job

QUEUES = ("celery", "bulk")
_PRIORITIES = (0, 0, 0, 0, 3, 6, 9)  # on Redis 0 is the most urgent


def job_id(number: int) -> str:
    """The task id of a job: seen in the broker's keys, it tells the number."""
    return f"job-{number}"


class Unheard(RedisBackend):
    """Nobody waits for a result, so none is subscribed to."""

    def on_task_call(self, producer: object, task_id: str) -> dict[str, object]:
        return {}

    def add_pending_result(self, result: object, *_: object, **__: object) -> object:
        return result


class Feeder(threading.Thread):
    """Publishes at least `at_least` jobs, and goes on until `enough()`; never more than `backlog` jobs wait.

    `waiting` says how many do. Jobs are noted before they are published: a publisher that fails here fails the round.
    """

    def __init__(
        self, url: str, seed: str, at_least: int, backlog: int, waiting: Callable[[], int], enough: Callable[[], bool]
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.jobs: dict[int, Job] = {}
        self.error: BaseException | None = None
        self._app = Celery("feeder", broker=f"{url}/0", backend=f"{__name__}:Unheard+{url}/1", set_as_current=False)
        self._chance = random.Random(seed)
        self._at_least, self._backlog, self._waiting, self._enough = at_least, backlog, waiting, enough
        self._kinds: tuple[tuple[Callable[[], None], int], ...] = (
            (lambda: self._plain(0.0), 780),
            (lambda: self._plain(self._chance.uniform(0.01, 0.05)), 130),
            (lambda: self._plain(1.0), 6),
            (self._with_countdown, 24),
            (self._chain, 24),
            (self._group, 24),
            (self._chord, 12),
        )

    def run(self) -> None:
        kinds, weights = zip(*self._kinds, strict=True)
        try:
            self._feed(kinds, weights)
        except BaseException as error:  # noqa: BLE001  told by the round, which waits for this thread
            self.error = error
        finally:
            self._app.close()

    def _feed(self, kinds: tuple[Callable[[], None], ...], weights: tuple[int, ...]) -> None:
        while len(self.jobs) < self._at_least or not self._enough():
            if self._waiting() >= self._backlog:
                time.sleep(0.01)
                continue
            for kind in self._chance.choices(kinds, weights, k=20):
                kind()

    def _plain(self, busy_s: float) -> None:
        job = self._job()
        self._grind(job, busy_s).apply_async(ignore_result=True)

    def _with_countdown(self) -> None:
        countdown_s = self._chance.uniform(0.2, 1.5)
        job = self._job(due=time.time() + countdown_s, ordered=False)
        self._grind(job, 0.0).apply_async(ignore_result=True, countdown=countdown_s)

    def _chain(self) -> None:
        first = self._job(ordered=False)
        second = self._job(after=(first.number,), ordered=False)
        third = self._job(after=(second.number,), ordered=False)
        chain(self._grind(first, 0.0), self._gather(second), self._gather(third)).apply_async()

    def _group(self) -> None:
        jobs = [self._job(ordered=False) for _ in range(3)]
        group(self._grind(job, 0.01) for job in jobs).apply_async()

    def _chord(self) -> None:
        parts = [self._job(ordered=False) for _ in range(3)]
        body = self._job(after=tuple(part.number for part in parts), ordered=False)
        chord([self._grind(part, 0.0) for part in parts], app=self._app)(self._gather(body))

    def _job(self, after: tuple[int, ...] = (), due: float = 0.0, ordered: bool = True) -> Job:
        queue, priority = self._chance.choice(QUEUES), self._chance.choice(_PRIORITIES)
        job = Job(len(self.jobs), queue, priority, after, due, ordered)
        self.jobs[job.number] = job
        return job

    def _grind(self, job: Job, busy_s: float) -> Signature:
        return self._signature("tasks.grind", (job.number, busy_s), job)

    def _gather(self, job: Job) -> Signature:
        return self._signature("tasks.gather", (job.number, 0.0), job)

    def _signature(self, task: str, args: tuple[object, ...], job: Job) -> Signature:
        return self._app.signature(task, args, task_id=job_id(job.number), queue=job.queue, priority=job.priority)
