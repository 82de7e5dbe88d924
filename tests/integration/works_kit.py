"""One script, two workers: the project `works` with the middleware and without it, each in databases of its own."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exc
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TimeoutError as NoResultError

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until

FOLDER = Path(__file__).parent.parent / "foreign" / "works"
OURS, STOCK = "ours", "stock"
POOLS = ("prefork", "threads", "solo")
ALL_QUEUES = "celery,second,wide,narrow,red,everyone"
WITHIN_S = 15.0


class Side:
    """A fleet, a stock publisher and the book of what ran, for one pool with or without the middleware."""

    def __init__(self, port: int, number: int, stock: bool, pool: str, log_dir: Path, worker: str = "w") -> None:
        url = f"redis://127.0.0.1:{port}"
        self.name = STOCK if stock else OURS
        self.pool = pool
        self.urls = {
            "WORKS_BROKER": f"{url}/{number}",
            "WORKS_BOOK": f"{url}/{number + 6}",
            "WORKS_RESULTS": f"{url}/12",
            **({"WORKS_STOCK": "1"} if stock else {}),
        }
        self.app = Celery(
            "sender", broker=self.urls["WORKS_BROKER"], backend=self.urls["WORKS_RESULTS"], set_as_current=False
        )
        self.broker = redis.Redis.from_url(self.urls["WORKS_BROKER"], decode_responses=True)
        self.book = redis.Redis.from_url(self.urls["WORKS_BOOK"], decode_responses=True)
        self.started: list[WorkerProcess] = []
        self.log_dir = log_dir
        self._worker = worker

    def worker(self, name: str = "", *, conf: Mapping[str, Any] | None = None, **options: Any) -> WorkerProcess:
        """A worker that boots; wait for it with `wait_ready`."""
        name = name or self._worker
        options = {"pool": self.pool, "concurrency": 1 if self.pool == "solo" else 2, "queues": ALL_QUEUES, **options}
        env = {**self.urls, "WORKS_CONF": json.dumps(conf or {}), **options.pop("env", {})}
        worker = WorkerProcess(FOLDER, f"{name}-{self.name}-{options['pool']}", self.log_dir, env=env, **options)
        self.started.append(worker)
        worker.start()
        return worker

    @property
    def environment(self) -> dict[str, str]:
        """For a command of the project."""
        return {**os.environ, **self.urls}

    @property
    def host(self) -> str:
        return f"{self._worker}-{self.name}-{self.pool}@test"

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(f"tasks.{task}", args, **options)

    def s(self, task: str, *args: Any, **kwargs: Any) -> Any:
        return self.app.signature(f"tasks.{task}", args=args, kwargs=kwargs)

    def ran(self, key: str) -> list[str]:
        return [str(entry) for entry in self.book.lrange(f"ran:{key}", 0, -1)]

    def began(self, key: str) -> int:
        return int(self.book.llen(f"began:{key}"))

    def numbers(self, key: str) -> list[int]:
        """Which of the holding tasks began, in order."""
        return [int(number) for number in self.book.lrange(f"numbers:{key}", 0, -1)]

    def go(self, key: str) -> None:
        self.book.set(f"go:{key}", "1")

    def queued(self, queue: str = "celery") -> int:
        """Messages of all priorities that lie in the queue's lists."""
        return int(sum(self.broker.llen(key) for key in (queue, *(f"{queue}\x06\x16{step}" for step in (3, 6, 9)))))

    def ask(self, what: str, *args: Any, timeout: float = 3.0, **options: Any) -> Any:
        """The one worker's answer to `inspect`."""
        inspect = self.app.control.inspect([self.host], timeout=timeout, limit=1)
        return (getattr(inspect, what)(*args, **options) or {}).get(self.host)

    def tell(self, command: str, *args: Any, **options: Any) -> Any:
        """The one worker's reply to a `control` command."""
        options = {"destination": [self.host], "reply": True, "timeout": 3.0, **options}
        replies = getattr(self.app.control, command)(*args, **options) or []
        return [reply[self.host] for reply in replies if self.host in reply]

    def names(self, rows: list[dict[str, Any]] | None) -> list[str]:
        """Task names in an answer of `inspect`."""
        return sorted(str((row.get("request") or row)["name"]) for row in rows or [])

    def until(self, condition: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
        return until(condition, within_s, what)

    def close(self) -> None:
        for worker in self.started:
            worker.ask_to_stop()
        for worker in self.started:
            worker.stop()
        self.app.close()
        self.broker.close()
        self.book.close()


@pytest.fixture
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    """Ours, alone on a Redis; the parameter is its pool."""
    with RedisServer() as server, closing(Side(server.port, 0, False, request.param, tmp_path)) as made:
        yield made


def answer(result: Any) -> Any:
    """What `get` gives, or the name and text of what it raises."""
    try:
        return result.get(timeout=WITHIN_S)
    except NoResultError:
        raise
    except Exception as error:  # noqa: BLE001  the error is what is compared
        return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Behaviour:
    """A script and what stock Celery makes of it, on the pools where it means something."""

    script: Callable[[Side], Any]
    outcome: Any
    pools: tuple[str, ...]

    def outcome_on(self, pool: str) -> Any:
        return self.outcome.get(pool, self.outcome.get("")) if isinstance(self.outcome, On) else self.outcome


class On(dict[str, Any]):
    """Outcomes by pool; "" is every other one's."""


class Table:
    """The behaviours of one test module, in the order in which they are written."""

    def __init__(self) -> None:
        self.rows: dict[str, Behaviour] = {}

    def behaves(self, outcome: Any, *pools: str) -> Callable[[Callable[[Side], Any]], Callable[[Side], Any]]:
        def add(script: Callable[[Side], Any]) -> Callable[[Side], Any]:
            self.rows[script.__name__] = Behaviour(script, outcome, pools or POOLS)
            return script

        return add

    @property
    def cases(self) -> list[tuple[str, str]]:
        return [(pool, name) for pool in POOLS for name, row in self.rows.items() if pool in row.pools]

    def run(self, side: Side) -> dict[str, Any]:
        """Every script on one side, one after the other; a script that failed leaves its error as the outcome."""
        found: dict[str, Any] = {}
        for name, row in self.rows.items():
            if side.pool in row.pools:
                try:
                    found[name] = row.script(side)
                except Exception:  # noqa: BLE001  the error is the outcome, and the test shows it
                    found[name] = f"failed: {format_exc()}"  # as text: its frames keep results, which know their server
        return found


Outcomes = dict[tuple[str, str], dict[str, Any]]


def sides(stack: ExitStack, log_dir: Path, pools: tuple[str, ...]) -> Iterator[Side]:
    """Ours and stock of each pool, closed by `stack`; all share one Redis."""
    server = stack.enter_context(RedisServer())
    stack.callback(gc.collect)  # a result that is forgotten later asks a server that is gone
    for number, pool in enumerate(pools):
        for stock in (False, True):
            side = Side(server.port, 2 * number + stock, stock, pool, log_dir)
            stack.callback(side.close)
            yield side


def at_once(work: Callable[[Side], dict[str, Any]], everyone: list[Side]) -> Outcomes:
    """`work` of every side, each in a thread of its own."""
    outcomes: Outcomes = {}
    errors: list[BaseException] = []

    def one(side: Side) -> None:
        try:
            outcomes[side.name, side.pool] = work(side)
        except BaseException as error:  # noqa: BLE001  raised again below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=one, args=(side,)) for side in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return outcomes


def judge(table: Table, outcomes: Outcomes, pool: str, name: str) -> None:
    """Both sides came to what stock Celery is known to do."""
    expected = table.rows[name].outcome_on(pool)
    stock, ours = outcomes[STOCK, pool][name], outcomes[OURS, pool][name]
    assert stock == expected, f"stock Celery itself does not: {stock!r}"
    assert ours == expected, f"stock: {stock!r}; ours: {ours!r}"
