"""A worker that is SIGKILLed while it runs a task has failed that attempt; what it only held, it has not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from resilience import BreakerPolicy, Breakers
from resilience.testing import WorkerProcess, until
from tests.claims import claimed

FOLDER = Path(__file__).parent.parent / "foreign" / "feeding"
NAMESPACE = "fleet"
POLICY = {"consecutive_failures": 10_000, "minimum_calls": 1_000_000}

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(shop_redis: str, tmp_path: Path) -> Iterator[Start]:
    """Start a worker of the project; `held` is the policy of the circuit that the killed task feeds.

    One that need not be `ready` at once boots beside the next.
    """
    started: list[WorkerProcess] = []

    def one(
        name: str, pool: str = "prefork", held: Any = None, queues: str = NAMESPACE, ready: bool = True, **env: str
    ) -> WorkerProcess:
        env |= {"FEEDING_REDIS": shop_redis, "FEEDING_POOL": NAMESPACE}
        env["RESILIENCE_CIRCUITS"] = json.dumps({"held": held or POLICY})
        worker = WorkerProcess(FOLDER, name, tmp_path, queues=queues, pool=pool, concurrency=1, env=env)
        started.append(worker)
        worker.start()
        if ready:
            worker.wait_ready()
        return worker

    yield one
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


@pytest.fixture
def breakers(shop_redis: str) -> Iterator[Breakers]:
    made = Breakers.from_url(f"{shop_redis}/0", namespace=NAMESPACE)
    yield made
    made.close()


@pytest.fixture
def stock(shop_redis: str) -> Iterator[Celery]:
    """A publisher that knows nothing of the middleware."""
    with Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False) as app:
        yield app


def send(app: Celery, name: str, count: int = 1) -> list[str]:
    return [app.send_task(f"tasks.{name}", queue=NAMESPACE).id for _ in range(count)]


def begun(book: redis.Redis, task_ids: list[str]) -> list[str]:
    return [task_id for task_id in task_ids if book.exists(f"{NAMESPACE}:began:{task_id}")]


def attempts_at(book: redis.Redis, name: str) -> list[list[Any]]:
    return [json.loads(text) for text in book.lrange(f"{NAMESPACE}:{name}", 0, -1)]


def last_beat(broker: redis.Redis, worker: WorkerProcess) -> str:
    """What the worker's last beat says that it runs."""
    for key in broker.scan_iter(f"{NAMESPACE}:v1:worker:*:{worker.pid}:*"):
        return broker.hget(key, "running") or ""
    return ""


def hold_and_kill(
    stock: Celery, book: redis.Redis, broker: redis.Redis, victim: WorkerProcess, name: str = "held", count: int = 1
) -> list[str]:
    """Have `victim` run one task and hold the others, and kill it; ids of all, the one that ran first."""
    ids = send(stock, name, count)
    (running,) = until(lambda: begun(book, ids), what="one task runs")
    until(lambda: broker.llen(NAMESPACE) == 0, what="the others are prefetched")
    until(lambda: running in last_beat(broker, victim), what="a beat names it")
    victim.kill()
    return [running, *(task_id for task_id in ids if task_id != running)]


# A gevent worker whose slots are taken holds one task more, whatever its prefetch window.
@pytest.mark.parametrize(("pool", "count"), [("prefork", 4), ("threads", 4), ("gevent", 2)])
def test_of_a_killed_workers_tasks_only_the_one_that_ran_is_a_failure_and_only_once(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers, pool: str, count: int
) -> None:
    victim = start("victim", pool)
    ids = hold_and_kill(stock, book, broker, victim, count=count)
    judges = [start("judge1", pool, ready=False), start("judge2", pool)]
    book.set(f"{NAMESPACE}:go", "1")
    until(lambda: breakers.snapshot("held").get("calls") == count + 1, what="one was lost, all ended")
    assert breakers.snapshot("held")["failures"] == 1
    told = attempts_at(book, "held")
    assert [(attempt[0], attempt[1]) for attempt in told if attempt[2] == "failure"] == [(ids[0], 1)]
    assert sorted(attempt[0] for attempt in told if attempt[2] == "success") == sorted(ids)
    assert sum(f"died: {count} messages back" in judge.log() for judge in judges) == 1


def test_without_recovery_the_same_death_is_not_counted(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    off = {"RESILIENCE_RECOVERY_ENABLED": "false"}
    victim = start("victim", **off)
    ids = send(stock, "held", 4)
    until(lambda: begun(book, ids), what="one task runs")
    victim.kill()
    start("judge", **off)
    send(stock, "success")
    until(lambda: attempts_at(book, "success"), what="the survivor works")
    with pytest.raises(AssertionError, match="not within"):
        until(lambda: breakers.snapshot("held"), within_s=4)


def test_a_worker_that_was_being_stopped_has_failed_nothing(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    victim = start("victim")
    (task_id,) = send(stock, "held")
    until(lambda: begun(book, [task_id]), what="the task runs")
    victim.ask_to_stop()
    until(lambda: last_beat(broker, victim).startswith("[true"), what="a beat says that it is being stopped")
    victim.kill()
    judge = start("judge")
    book.set(f"{NAMESPACE}:go", "1")
    until(lambda: breakers.snapshot("held").get("calls") == 1, what="its second run")
    assert breakers.snapshot("held")["failures"] == 0
    until(lambda: len(attempts_at(book, "held")) > 1, what="it is told")
    assert [attempt[2] for attempt in attempts_at(book, "held")] == ["nothing", "success"]
    assert "died: 1 messages back" in judge.log()


def test_a_cold_shutdown_fails_nothing_that_it_cuts_short(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    worker = start("w1")
    (task_id,) = send(stock, "held")
    until(lambda: begun(book, [task_id]), what="the task runs")
    worker.kill(signal.SIGQUIT)
    until(lambda: broker.llen(NAMESPACE) == 1, what="the message is on its queue again")
    worker.stop()
    assert [attempt[2] for attempt in attempts_at(book, "held")] == ["nothing"]
    assert not breakers.snapshot("held")


def test_an_attempt_that_ended_after_the_last_beat_is_not_counted_again(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    judge = start("judge", queues="judge", ready=False)
    victim = start("victim", RESILIENCE_BEAT_S="3")  # so old a witness
    (task_id,) = send(stock, "held")
    until(lambda: task_id in last_beat(broker, victim), what="a beat names it")
    book.set(f"{NAMESPACE}:go", "1")
    until(lambda: not claimed(broker), what="it is acknowledged")
    victim.kill()
    until(lambda: "died: 0 messages back" in judge.log(), what="the death is noticed")
    assert (breakers.snapshot("held")["calls"], breakers.snapshot("held")["failures"]) == (1, 0)


def test_a_task_acknowledged_before_it_ran_may_have_ended_well_so_its_death_says_nothing(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    judge = start("judge", queues="judge", ready=False)
    victim = start("victim")
    hold_and_kill(stock, book, broker, victim, "held_but_acknowledged")
    until(lambda: "died: 0 messages back" in judge.log(), what="the death is noticed")
    assert not breakers.snapshot("held_but_acknowledged")
    assert not attempts_at(book, "held_but_acknowledged")


def test_the_probe_of_a_dead_worker_gives_its_permit_back_long_before_its_lease_is_over(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, shop_redis: str
) -> None:
    policy = {"consecutive_failures": 1, "open_s": 0.5, "half_open_permits": 2, "permit_lease_s": 600}
    with closing(
        Breakers.from_url(f"{shop_redis}/0", namespace=NAMESPACE, policies={"held": BreakerPolicy(**policy)})
    ) as mine:
        start("judge", held=policy, queues="judge", ready=False)
        victim = start("victim", held=policy)
        mine.record_failure("held")
        until(lambda: mine.snapshot("held")["probe_in_s"] == 0, what="it may be probed")
        hold_and_kill(stock, book, broker, victim)
        assert (mine.get_state("held"), mine.snapshot("held")["probes"]) == ("half_open", 1)
        until(lambda: mine.snapshot("held")["opens"] == 2, what="the lost probe failed, so it opened again")


def test_a_death_counts_in_the_name_of_the_dead_worker(
    stock: Celery, start: Start, book: redis.Redis, broker: redis.Redis, breakers: Breakers
) -> None:
    """Two failures in a row open a circuit that two workers feed only if they come from two."""
    policy = {**POLICY, "consecutive_failures": 2}
    start("judge", held=policy, queues="judge", ready=False)
    victim = start("victim", held=policy)
    book.set(f"{NAMESPACE}:go", "1")
    send(stock, "held")
    until(lambda: breakers.snapshot("held").get("calls") == 1, what="the victim feeds the circuit")
    book.delete(f"{NAMESPACE}:go")
    stock.send_task("tasks.fails_like_held", queue="judge")
    until(lambda: breakers.snapshot("held")["failures"] == 1, what="a failure of the worker that will find it dead")
    hold_and_kill(stock, book, broker, victim)
    until(lambda: breakers.get_state("held") == "open", what="the second failure is another worker's")
