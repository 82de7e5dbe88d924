"""Workers under measurement: real processes of a task queue, what fills their queue, and what they did by when."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import kombu.pools
import psutil
from celery import Celery

from resilience.local.orphans import bound_to_parent
from tests.bench.peers import Stage

SUBJECTS = Path(__file__).parent / "subjects"
QUEUE = "celery"
STOCK, BARE, OURS = "celery", "celeriac: transport only", "celeriac"
SAME = {"task_acks_late": True, "task_reject_on_worker_lost": True}
"""Settings of stock Celery and of ours alike; whatever else there is has its default."""
_PARTS = ("breakers", "retries", "quarantine", "health", "sentry")
_OWN: Mapping[str, Mapping[str, Any]] = {
    STOCK: {},
    BARE: {f"resilience_{part}_enabled": False for part in _PARTS},
    OURS: {},
}

_BOOTS_WITHIN_S = 60.0
_LOOK_S = 0.005
_AT_ONCE = 1_000
_PREPARED = 5_000
_RECORD_BYTES = 8

Fill = Callable[[int], None]
"""Puts so many messages on the queue of a subject; its worker may be away."""


@dataclass(frozen=True)
class Subject:
    """A worker that is measured: `argv` is what Python runs in the folder of the subjects."""

    name: str
    argv: tuple[str, ...]
    fill: Fill
    environ: Mapping[str, str] = field(default_factory=dict)


def celery_worker(
    messages: Messages, kind: str, pool: str, concurrency: int, *, task: str = "plain", **conf: Any
) -> Subject:
    """A Celery worker: `kind` is STOCK, BARE or OURS, `task` the one that its messages name."""
    name = kind if task == "plain" else f"{kind}: circuit, fallback"
    environ = {"BENCH_CONF": json.dumps({**SAME, **_OWN[kind], **conf})}
    if kind != STOCK:
        environ["BENCH_RESILIENT"] = "1"
    command = f"celery -A celery_app worker -P {pool} -c {concurrency} -l WARNING --without-gossip --without-mingle"
    return Subject(name, ("-m", *command.split()), lambda count: messages.push(task, count), environ)


class Messages:
    """Ready messages of the Celery tasks, as a stock publisher makes them, each with ids of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._templates = {task: self._sent(task) for task in ("plain", "guarded", "replaced")}
        self._prepared: dict[str, list[bytes]] = {}

    def push(self, task: str, count: int) -> None:
        """Put so many on the queue. After some thousands the same ones come again: the first are long gone by then."""
        if task not in self._prepared:
            self._prepared[task] = [self.one(task) for _ in range(_PREPARED)]
        wanted = islice(cycle(self._prepared[task]), count)
        while chunk := list(islice(wanted, _AT_ONCE)):
            self._stage.client.lpush(QUEUE, *chunk)

    def one(self, task: str, *args: Any) -> bytes:
        template, body = self._templates[task]
        message, task_id = {**template}, str(uuid.uuid4())
        message["headers"] = {**template["headers"], "id": task_id, "root_id": task_id}
        message["properties"] = {
            **template["properties"], "correlation_id": task_id, "delivery_tag": str(uuid.uuid4())
        }  # fmt: skip
        message["body"] = base64.b64encode(json.dumps([args, *body[1:]]).encode()).decode()
        return json.dumps(message).encode()

    def _sent(self, task: str) -> tuple[dict[str, Any], list[Any]]:
        """A message as a publisher's channel left it on the queue, and its body, decoded."""
        self._stage.clear()
        app = Celery("bench", broker=self._stage.url, set_as_current=False)
        app.send_task(task, ignore_result=True)
        app.close()
        kombu.pools.reset()
        raw = self._stage.client.lpop(QUEUE)
        assert isinstance(raw, bytes)
        message = json.loads(raw)
        return message, json.loads(base64.b64decode(message["body"]))


class Kept:
    """The queue of another task queue: filled once by a publisher of its own, then put back as it was."""

    def __init__(self, stage: Stage, module: str) -> None:
        self._stage, self._module = stage, module
        self._keys: dict[bytes, bytes] = {}

    def __call__(self, count: int) -> None:
        client = self._stage.client
        if not self._keys:
            self._send(count)
            self._keys = {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]
        for key, value in self._keys.items():
            client.restore(key, 0, value, replace=True)

    def _send(self, count: int) -> None:
        environ = {**_environ(self._stage.url), "BENCH_RAN": os.devnull}
        code = f"import {self._module}; {self._module}.send({count})"
        subprocess.run([sys.executable, "-c", code], cwd=SUBJECTS, env=environ, check=True)


def others(stage: Stage) -> dict[str, list[Subject]]:
    """Other task queues, by the pool of Celery's that they are nearest to."""
    dramatiq = ("-m", "dramatiq", "dramatiq_app", "-p", "2", "-t", "4", "--skip-logging")
    huey = ("-m", "huey.bin.huey_consumer", "huey_app.huey", "-w", "4", "-k", "thread", "-q")
    taskiq = ("-m", "taskiq", "worker", "taskiq_app:broker", "-w", "2", "--log-level", "WARNING")
    return {
        "prefork": [
            Subject("dramatiq, 2 processes of 4 threads", dramatiq, Kept(stage, "dramatiq_app")),
            Subject("taskiq, 2 processes", taskiq, Kept(stage, "taskiq_app")),
        ],
        "threads": [Subject("huey, 4 threads", huey, Kept(stage, "huey_app"))],
        "solo": [],
    }


@dataclass(frozen=True)
class Done:
    """What a worker has done by an instant: tasks, and processor seconds of all its processes and of the main one."""

    at_s: float
    tasks: int
    cpu_s: float
    main_cpu_s: float


class Work:
    """A worker that runs."""

    def __init__(self, process: subprocess.Popen[bytes], ran: Path, log: Path) -> None:
        self._main = psutil.Process(process.pid)
        self._process, self._ran, self._log = process, ran, log

    @property
    def tasks(self) -> int:
        """How many have begun so far."""
        return self._ran.stat().st_size // _RECORD_BYTES

    def look(self) -> Done:
        spent = [sum(process.cpu_times()[:2]) for process in (self._main, *self._main.children(recursive=True))]
        return Done(time.perf_counter(), self.tasks, sum(spent), spent[0])

    def wait_for(self, tasks: int, within_s: float = _BOOTS_WITHIN_S) -> None:
        """Wait until so many have begun. Raises RuntimeError with the worker's last words when that takes too long."""
        until = time.monotonic() + within_s
        while self.tasks < tasks:
            if time.monotonic() > until or self._process.poll() is not None:
                said = self._log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.tasks} of {tasks} tasks ran within {within_s:g} s:\n{said}")
            time.sleep(_LOOK_S)

    def delays_ms(self, first: int) -> list[float]:
        """How long after they were sent the tasks began, from the one on that began as number `first`."""
        delays = array("q", self._ran.read_bytes())
        return [ns / 1e6 for ns in delays[first:]]

    def measure(self, stage: Stage, most: int, meanwhile: Callable[[int], object] = int) -> dict[str, float]:
        """Figures of what it does in the next seconds, or until `most` tasks have begun; `meanwhile` gets their number.

        Raises RuntimeError when it does nothing.
        """
        redis_before, before = stage.meter.look(), self.look()
        while self.tasks < most and time.perf_counter() - before.at_s < stage.size.work_s:
            meanwhile(self.tasks)
            time.sleep(_LOOK_S)
        after, redis_after = self.look(), stage.meter.look()
        tasks = after.tasks - before.tasks
        if not tasks:
            raise RuntimeError(f"no task ran for {stage.size.work_s:g} s:\n{self._log.read_text(errors='replace')}")
        return {
            "tasks/s": tasks / (after.at_s - before.at_s),
            "CPU us": (after.cpu_s - before.cpu_s) / tasks * 1e6,
            "main CPU us": (after.main_cpu_s - before.main_cpu_s) / tasks * 1e6,
            "Redis CPU us": (redis_after.cpu_s - redis_before.cpu_s) / tasks * 1e6,
            "round trips": round((redis_after.reads - redis_before.reads) / tasks, 2),
            "commands": round((redis_after.commands - redis_before.commands) / tasks, 2),
        }


@contextmanager
def working(subject: Subject, stage: Stage) -> Iterator[Work]:
    """Start the worker; kill it, and all that it started, at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as folder:
        ran, log = Path(folder, "ran"), Path(folder, "log")
        ran.touch()
        with log.open("wb") as output:
            process = subprocess.Popen(
                bound_to_parent([sys.executable, *subject.argv]),
                cwd=SUBJECTS, env={**_environ(stage.url), **subject.environ, "BENCH_RAN": str(ran)},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            yield Work(process, ran, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the group is still the one that we started
            process.wait()


def rate(subject: Subject, stage: Stage) -> dict[str, float]:
    """What a worker does with a full queue, once it is warm."""
    size = stage.size
    stage.clear()
    subject.fill(size.filled)
    with working(subject, stage) as work:
        work.wait_for(size.warm_tasks)
        return work.measure(stage, size.filled)


def _environ(url: str) -> dict[str, str]:
    return {**os.environ, "BENCH_REDIS": url}
