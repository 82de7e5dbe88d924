"""Workers under load on a broker in trouble, and a book beside it that says what became of every task."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until

FOLDER = Path(__file__).parent.parent / "foreign" / "troubled"
BACK_WITHIN_S = 10.0
"""The promise: so soon after its broker is well again a worker works."""

long = pytest.mark.skipif("CELERIAC_CHAOS" not in os.environ, reason="long: `make trouble` runs it")
"""For what a shorter test shows in good part."""

NOT_PUBLISHED = (redis.RedisError, OSError, OperationalError)


class Note(NamedTuple):
    """What a task wrote down: its number, its id, the worker's name, and the Unix time."""

    number: int
    task_id: str
    worker: str
    at: float


@dataclass
class Book:
    """What the tasks wrote down, in a Redis that is never disturbed."""

    client: redis.Redis

    def notes(self, what: str) -> list[Note]:
        """Every run that "began" or "ended", in order."""
        rows = (json.loads(row) for row in self.client.lrange("book", 0, -1))
        return [Note(*rest) for kind, *rest in rows if kind == what]

    def ended(self) -> set[int]:
        return {note.number for note in self.notes("ended")}

    def repeats(self) -> Counter[str]:
        """Runs beyond the first of their task, by the worker that made the first one: it gave back what it had run."""
        first: dict[str, str] = {}
        repeated: Counter[str] = Counter()
        for note in self.notes("began"):
            repeated[first.get(note.task_id, "")] += note.task_id in first
            first.setdefault(note.task_id, note.worker)
        return +repeated

    def back_after_s(self, since: float, above: int = -1) -> dict[str, float]:
        """Seconds from `since` until each worker began a task; with `above`, one with a higher number."""
        first: dict[str, float] = {}
        for note in self.notes("began"):
            if note.at > since and note.number > above:
                first.setdefault(note.worker, note.at - since)
        return first


@dataclass
class Trouble:
    """A broker, workers behind any URL of it, and the book. A context manager's work is done by `ExitStack`."""

    server: RedisServer
    book: Book
    folder: Path
    conf: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    workers: list[WorkerProcess] = field(default_factory=list)
    _marks: dict[str, int] = field(default_factory=dict)

    def environment(self, url: str = "") -> dict[str, str]:
        """What the project in trouble reads from its environment."""
        return {
            "TROUBLED_BROKER": url or self.server.url(),
            "TROUBLED_BOOK": book_url(self.book),
            "TROUBLED_CONF": json.dumps(self.conf),
            **self.env,
        }

    def start(self, *specs: Mapping[str, Any], url: str = "", wait: bool = True, **common: Any) -> list[WorkerProcess]:
        """Start workers all at once; `url` is the broker's, by default the server itself."""
        made = []
        for spec in specs:
            options = {**common, **spec}
            env = {**self.environment(url), **options.pop("env", {})}
            worker = WorkerProcess(FOLDER, log_dir=self.folder, env=env, **options)
            self.workers.append(worker)
            made.append(worker)
            worker.start()
        for worker in made if wait else ():
            worker.wait_ready()
        return made

    @cached_property
    def broker(self) -> redis.Redis:
        """A client of the server itself, past every proxy."""
        return self.stack.enter_context(redis.Redis.from_url(self.server.url(), decode_responses=True))

    def publisher(self, url: str = "") -> Publisher:
        return self.stack.enter_context(Publisher(url or self.server.url()))

    def start_one_of_each_pool(self, url: str = "", **common: Any) -> None:
        """Three workers, named as their pools."""
        sizes = {"prefork": 2, "threads": 2, "solo": 1}
        specs = [{"name": pool, "pool": pool, "concurrency": size} for pool, size in sizes.items()]
        self.start(*specs, url=url, **common)

    def until_all_work_again(self, since: float, within_s: float = 40.0) -> dict[str, float]:
        """Wait until every worker has begun something after `since`; seconds that each took."""
        names = {worker.name for worker in self.workers}
        until(lambda: names <= self.book.back_after_s(since).keys(), within_s, f"all of {names} work again")
        took = self.book.back_after_s(since)
        say("back after", **took)
        return took

    def until_done(self, publisher: Publisher, within_s: float = 60.0) -> None:
        """Everything published has run, and nothing of it is left behind anywhere."""
        publisher.finish()
        until(lambda: not publisher.sent - self.book.ended(), within_s, "every task ran")
        until(lambda: not leftovers(self.broker), within_s, "claims, waits and queues are empty")

    def mark_logs(self) -> None:
        """`said` begins here."""
        self._marks = {worker.name: len(worker.log()) for worker in self.workers}

    def said(self) -> dict[str, list[str]]:
        """What each worker logged since the mark beside its tasks."""
        return {
            worker.name: [line for line in worker.log()[self._marks[worker.name] :].splitlines() if "work[" not in line]
            for worker in self.workers
        }

    def stop(self) -> None:
        for worker in self.workers:
            worker.ask_to_stop()
        for worker in self.workers:
            worker.stop()
        self.stack.close()


class Publisher:
    """Publishes numbered tasks from a thread, as fast as asked; what Redis did not confirm it sends again as new."""

    def __init__(self, url: str, **conf: Any) -> None:
        self.sent: set[int] = set()
        self.refused = 0
        self.app = Celery("publisher", broker=url, set_as_current=False)
        self.app.conf.update(
            broker_transport_options={"socket_timeout": 2.0, "socket_connect_timeout": 2.0},
            task_publish_retry=False,
        )
        self.app.conf.update(conf)
        self._next = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
        self.app.close()

    def send(self, count: int, for_s: float = 0.0, **options: Any) -> None:
        """Publish `count` more tasks, each of which runs for `for_s`."""
        for _ in range(count):
            number, self._next = self._next, self._next + 1
            self.app.send_task("tasks.work", (number, for_s), ignore_result=True, **options)
            self.sent.add(number)

    def keep_sending(self, per_s: float, for_s: float = 0.0) -> None:
        """Publish until `finish`, whatever the broker says."""

        def run() -> None:
            while not self._ending.wait(1 / per_s):
                self._try(for_s)

        self._thread = threading.Thread(target=run, name="publisher", daemon=True)
        self._thread.start()

    def _try(self, for_s: float) -> None:
        try:
            self.send(1, for_s)
        except NOT_PUBLISHED:
            self.refused += 1

    def finish(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=10)


def leftovers(broker: redis.Redis) -> dict[str, Any]:
    """Messages that lie in a queue, in a worker's claims, or in a list that it waits for."""
    found: dict[str, Any] = {}
    for key in broker.keys("*"):
        if ":claims:" in key and (tags := [name for name in broker.hkeys(key) if name.isdigit()]):
            found[key] = tags
        elif ":wait:" in key or key == "celery" or key.startswith("celery\x06"):
            found[key] = broker.llen(key)
    return found


def assert_in_time(took: Mapping[str, float]) -> None:
    """Every worker was back in time. Held to it by `make trouble`; a busy machine of CI proves nothing either way."""
    if os.environ.get("CELERIAC_CHAOS"):
        assert max(took.values()) < BACK_WITHIN_S


def book_url(book: Book) -> str:
    return f"redis://127.0.0.1:{book.client.connection_pool.connection_kwargs['port']}/0"


def say(what: str, **figures: float) -> None:
    """Show what was measured, where somebody asked for it."""
    if os.environ.get("CELERIAC_CHAOS"):
        sys.__stdout__.write(f"\n{what}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()) + "\n")


@pytest.fixture(scope="session")
def book_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@contextmanager
def broker_and_book(book_server: RedisServer, folder: Path) -> Iterator[Trouble]:
    """A broker of its own, append-only, every write on disk before it is confirmed; and an empty book."""
    directives = {"appendfsync": "always"}
    with (
        RedisServer(folder / "redis", appendonly=True, directives=directives) as server,
        redis.Redis.from_url(book_server.url(), decode_responses=True) as client,
    ):
        client.flushall()
        made = Trouble(server, Book(client), folder)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def trouble(book_server: RedisServer, tmp_path: Path) -> Iterator[Trouble]:
    """A broker that a test may do anything to, and no worker yet."""
    with broker_and_book(book_server, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def _fleet(book_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trouble]:
    with broker_and_book(book_server, tmp_path_factory.mktemp("fleet")) as made:
        made.start_one_of_each_pool()
        yield made


@pytest.fixture
def fleet(_fleet: Trouble) -> Iterator[Trouble]:
    """A worker of each pool on a broker that all tests of a module maltreat in turn: it must survive them all."""
    _fleet.book.client.flushall()
    _fleet.mark_logs()
    yield _fleet
    _fleet.broker.config_resetstat()


@pytest.fixture
def load(fleet: Trouble) -> Iterator[Publisher]:
    """The three workers are at work on a backlog, and more is to come whenever Redis takes it."""
    with Publisher(fleet.server.url()) as publisher:
        publisher.send(300, 0.02)
        publisher.keep_sending(per_s=60, for_s=0.02)
        until(lambda: len(fleet.book.back_after_s(0)) == 3, what="all are at work")
        yield publisher
