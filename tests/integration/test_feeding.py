"""Every way in which an attempt can end, on every pool: one observation of each, and exactly that in its circuit.

All pools work through all rows at once, each with circuits, queue and book of its own; then the rows are judged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from resilience import Breakers
from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until

FOLDER = Path(__file__).parent.parent / "foreign" / "feeding"
SLOTS = {"prefork": 2, "threads": 4, "solo": 1, "gevent": 20}
WORKERS = tuple(SLOTS)
EAGER = ("eager", "eager_raising")  # the second hands a task's error on to its caller
ALL = (*WORKERS, *EAGER)
PAUSE_S = 0.02  # each task's first act
LONGEST_S = 30.0


@dataclass(frozen=True)
class Row:
    """What a task's attempts are, one letter each: Success, Failure, Uncounted failure, Nothing."""

    attempts: str
    pools: tuple[str, ...] = ALL
    otherwise: dict[str, str] = field(default_factory=dict)
    kills: bool = False
    sent: bool = True

    def on(self, pool: str) -> str:
        return self.otherwise.get(pool, self.attempts)


def eager(attempts: str) -> dict[str, str]:
    """Eagerly there is no matrix and no message to come back."""
    return dict.fromkeys(EAGER, attempts)


NOT_RAISING = tuple(pool for pool in ALL if pool != "eager_raising")

ROWS = {
    "success": Row("S"),
    "connection_error": Row("F"),
    "transient_error": Row("F"),
    "status_error": Row("F"),
    "permanent_error": Row("U"),
    "python_error": Row("U"),
    "unserializable": Row("U", WORKERS),
    "lost_elsewhere": Row("F"),
    "hooks_without_super": Row("F"),
    "hooks_and_success": Row("S"),
    "before_start_fails": Row("F", NOT_RAISING),
    "failing_hook": Row("F", ("prefork", *EAGER)),  # on other pools Celery never ends such a task
    "retry_with_exception": Row("FS", otherwise={"eager_raising": "F"}),
    "retry_in_except": Row("FS", otherwise={"eager_raising": "F"}),
    "retry_with_status_error": Row("FS", otherwise={"eager_raising": "F"}),
    "poll": Row("NNS", otherwise={"eager_raising": "N"}),
    "polls_in_vain": Row("NU", otherwise={"eager_raising": "N"}),
    "autoretry": Row("FFS", otherwise={"eager_raising": "F"}),
    "matrix_retry": Row("FS", otherwise=eager("F")),
    "soft_limit": Row("F", ("prefork",)),
    "hard_limit": Row("F", ("prefork", "gevent"), kills=True),
    "child_killed": Row("F", ("prefork",), kills=True),
    "child_killed_requeued": Row("FS", ("prefork",), kills=True),
    "child_killed_retried": Row("FS", ("prefork",), kills=True),
    "sys_exit": Row("F", otherwise=eager("N"), kills=True),
    "ignored": Row("N"),
    "rejected": Row("N"),
    "rejected_once": Row("NS", otherwise=eager("N")),
    "terminated": Row("N", ("prefork", "gevent"), kills=True, sent=False),
    "terminated_hard": Row("N", ("prefork", "gevent"), kills=True, sent=False),
    "revoked": Row("", WORKERS, sent=False),
    "expired": Row("", WORKERS, sent=False),
    "calls_another": Row("S"),
    "called": Row("", sent=False),
    "applies_another": Row("S", otherwise={"eager_raising": "F"}),
    "applied": Row("S", sent=False),
    "applied_fails": Row("F", sent=False),
    "applies_itself": Row("SSS"),
    "starts_chord": Row("S"),
    "part": Row("SS", sent=False),
    "whole": Row("S", sent=False),
    "starts_chord_in_vain": Row("S"),
    "ignored_part": Row("N", sent=False),
}
CASES = [(pool, name) for pool in ALL for name, row in ROWS.items() if pool in row.pools]


def calls_in(attempts: str) -> int:
    return attempts.count("S") + attempts.count("F")


@dataclass(frozen=True)
class Seen:
    """What a row came to: its circuit's window, and [task id, attempt, result, error, runtime_s] of each attempt."""

    calls: int
    failures: int
    attempts: list[list[Any]]


class Bench:
    """The project, its Redis, and a worker per pool."""

    def __init__(self, url: str, log_dir: Path) -> None:
        self.url = url
        self.log_dir = log_dir
        self.app = Celery("sender", broker=f"{url}/0", backend=f"{url}/1", set_as_current=False)
        self.book = redis.Redis.from_url(f"{url}/2", decode_responses=True)

    def env(self, pool: str, **more: str) -> dict[str, str]:
        return {"FEEDING_REDIS": self.url, "FEEDING_POOL": pool, **more}

    def worker(self, pool: str, **env: str) -> WorkerProcess:
        env = self.env(pool, **env)
        return WorkerProcess(FOLDER, pool, self.log_dir, queues=pool, pool=pool, concurrency=SLOTS[pool], env=env)

    def send(self, pool: str, name: str, **options: object) -> str:
        return str(self.app.send_task(f"tasks.{name}", queue=pool, **options).id)

    def run_eagerly(self, mode: str, names: list[str]) -> None:
        argv = [sys.executable, "eager.py", *names]
        subprocess.run(argv, cwd=FOLDER, env={**os.environ, **self.env(mode)}, check=True, timeout=60)

    def seen(self, pool: str, names: list[str]) -> dict[str, Seen]:
        breakers = Breakers.from_url(f"{self.url}/0", namespace=pool)
        try:
            circuits = breakers.snapshots(names)
        finally:
            breakers.close()
        return {
            name: Seen(
                circuits.get(name, {}).get("calls", 0),
                circuits.get(name, {}).get("failures", 0),
                [json.loads(text) for text in self.book.lrange(f"{pool}:{name}", 0, -1)],
            )
            for name in names
        }

    def is_done(self, pool: str, kills: bool) -> bool:
        rows = {name: row.on(pool) for name, row in ROWS.items() if pool in row.pools and row.kills is kills}
        seen = self.seen(pool, list(rows))
        return all(
            len(seen[name].attempts) >= len(letters) and seen[name].calls >= calls_in(letters)
            for name, letters in rows.items()
        )

    def close(self) -> None:
        self.book.close()
        self.app.close()


def work_through(bench: Bench) -> None:
    """First what leaves the pool alone, then what kills: a killed child takes its unsent successes with it."""
    for kills in (False, True):
        for pool in WORKERS:
            for name, row in ROWS.items():
                if row.sent and row.kills is kills and pool in row.pools:
                    bench.send(pool, name)
        stop = stop_rows_that_run if kills else stop_rows_before_they_run
        stop(bench)
        with suppress(AssertionError):  # each row says for itself what is missing
            until(lambda k=kills: all(bench.is_done(pool, k) for pool in WORKERS), LONGEST_S)


def stop_rows_before_they_run(bench: Bench) -> None:
    for pool in WORKERS:
        bench.app.control.revoke(bench.send(pool, "revoked", countdown=0.6))
        bench.send(pool, "expired", countdown=0.6, expires=0.3)


def stop_rows_that_run(bench: Bench) -> None:
    for pool in ROWS["terminated"].pools:
        for name, signal_name in (("terminated", "SIGTERM"), ("terminated_hard", "SIGKILL")):
            task_id = uuid.uuid4().hex
            bench.send(pool, name, task_id=task_id)
            began = f"{pool}:began:{task_id}"
            until(lambda key=began: bench.book.exists(key), what=f"{name} runs on {pool}")
            bench.app.control.revoke(task_id, terminate=True, signal=signal_name)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Seen]]:
    """What each pool's rows came to, by pool and row, looked at after the workers stopped: nothing comes later."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        bench = Bench(f"redis://127.0.0.1:{server.port}", tmp_path_factory.mktemp("feeding"))
        stack.callback(bench.close)
        workers = [bench.worker(pool) for pool in WORKERS]
        for worker in workers:
            stack.callback(worker.stop)
            worker.start()
        for mode in EAGER:
            bench.run_eagerly(mode, [name for name, row in ROWS.items() if row.sent and mode in row.pools])
        for worker in workers:
            worker.wait_ready()
        work_through(bench)
        for worker in workers:
            worker.ask_to_stop()
        for worker in workers:
            worker.stop()
        return {pool: bench.seen(pool, list(ROWS)) for pool in ALL}


@pytest.mark.parametrize(("pool", "name"), CASES)
def test_an_attempt_is_observed_once_and_its_circuit_counts_exactly_that(
    outcomes: dict[str, dict[str, Seen]], pool: str, name: str
) -> None:
    expected = ROWS[name].on(pool)
    seen = outcomes[pool][name]
    told = {"S": "success", "F": "failure", "U": "failure", "N": "nothing"}
    assert sorted(attempt[2] for attempt in seen.attempts) == sorted(told[letter] for letter in expected), seen
    assert (seen.calls, seen.failures) == (calls_in(expected), expected.count("F"))
    for attempt in seen.attempts:
        assert PAUSE_S <= attempt[4] < LONGEST_S, f"runtime of {attempt}"


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_after_hundreds_of_attempts_of_every_kind_no_permit_is_left_over(
    shop_redis: str, tmp_path: Path, pool: str
) -> None:
    """These pools run everything in one process, which must not grow with what it has done."""
    rows = {name: row for name, row in ROWS.items() if row.sent and pool in row.pools}
    with closing(Bench(shop_redis, tmp_path)) as bench, bench.worker(pool, FEEDING_PAUSE_S="0"):
        for name in [*rows] * 10:
            bench.send(pool, name)
        expected = {name: 10 * len(row.on(pool)) for name, row in rows.items()}
        assert sum(expected.values()) > 300
        until(
            lambda: all(bench.book.llen(f"{pool}:{name}") == count for name, count in expected.items()),
            LONGEST_S,
            "every attempt observed",
        )
        held = bench.app.send_task("tasks.permits_held", queue=pool)
        assert held.get(timeout=20) == 1, "but its own"
