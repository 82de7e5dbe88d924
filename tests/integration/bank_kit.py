"""The foreign project `bank`: its workers, its upstreams, and publisher processes whose every task is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import redis

from resilience.testing import WorkerProcess
from tasks.upstream import Script, Upstream

BANK = Path(__file__).parent.parent / "foreign" / "bank"

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(shop_redis: str, tmp_path: Path) -> Iterator[Start]:
    """Start a worker: `start("home", pool="threads", env={...})`."""
    started: list[WorkerProcess] = []

    def start(name: str, env: dict[str, str] | None = None, **options: Any) -> WorkerProcess:
        worker = WorkerProcess(BANK, name, tmp_path, env={"BANK_REDIS": shop_redis, **(env or {})}, **options)
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


def set_to(upstream: Upstream, mode: str) -> None:
    """What it answers from now on: a mode of its script."""
    play(upstream, [{"for_s": 3600, "mode": mode}])


def play(upstream: Upstream, phases: list[dict[str, Any]]) -> None:
    """Begin that script now."""
    upstream.script = Script.of(phases)
    upstream.begin()


class Traffic:
    """`with Traffic(...) as traffic:` sends transfers `first`, `first + 1`, ... until the block ends."""

    def __init__(self, redis_url: str, *, first: int = 0, per_s: float = 30.0, count: int = 100_000) -> None:
        self._book = redis.Redis.from_url(f"{redis_url}/2", decode_responses=True)
        argv = [sys.executable, "publish.py", str(first), str(count), str(per_s)]
        env = {**os.environ, "BANK_REDIS": redis_url}
        self._process = subprocess.Popen(argv, cwd=BANK, env=env, stdin=-1, stdout=-1, text=True)
        self._has_told = False
        self.found: dict[int, str] = {}
        self.unsure: set[int] = set()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self._has_told:
            self.stop()
        self._process.kill()
        self._process.communicate()
        self._book.close()

    def tell_to_stop(self) -> None:
        """Send no more."""
        assert self._process.stdin is not None
        self._process.stdin.write("that is all\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Send no more, and wait for every answer."""
        self.tell_to_stop()
        self.wait()

    def wait(self) -> None:
        """Until all that was to be sent is sent and answered."""
        assert self._process.stdout is not None
        told, self._has_told = self._process.stdout.read(), True
        said = json.loads(told)
        self.found = {int(number): answer for number, answer in said["found"].items()}
        self.unsure = set(said["unsure"])

    def answers(self) -> list[str]:
        """What came of each task, in the order in which they were sent."""
        return [self.found[number] for number in sorted(self.found)]

    def last(self, count: int) -> list[str]:
        """Where the last tasks that ended well ran, as the book has it."""
        return [json.loads(row)[1] for row in self._book.lrange("ran", -count, -1)]

    def ran(self) -> Counter[int]:
        """How often each ended well, whoever sent it."""
        return Counter(json.loads(row)[0] for row in self._book.lrange("ran", 0, -1))
