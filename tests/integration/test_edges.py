"""Corners where work could strand, storm or run twice: each was seen to break once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu import Exchange, Queue

from resilience import BreakerPolicy, Breakers
from resilience.testing import WorkerProcess, until

PROJECT = """
import os, time
import redis
from celery import Celery, Task
from kombu import Exchange, Queue
from resilience import Resilience

REDIS = os.environ["SHOP_REDIS"]
app = Celery("edges", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    worker_prefetch_multiplier=2,
    broker_transport_options={"priority_steps": list(range(10)), "sep": ":"},
    task_queues=[Queue("celery"), Queue("topical", Exchange("tasks", "topic"), routing_key="task.#")],
    resilience_breaker={"open_s": 1.0, "open_max_s": 1.0, "permit_lease_s": 0.6},
)
Resilience(app)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)

class Context(app.Task):
    def __call__(self, *args, **kwargs):
        book.incr("wrapped")
        return self.run(*args, **kwargs)

@app.task
def hold(n):
    book.rpush("began", n)
    while not book.exists("go"):
        time.sleep(0.02)
    book.rpush("ran", n)

@app.task(circuit="dep", queue="topical")
def topical(n):
    return n

@app.task(circuit="dep", bind=True)
def where(self):
    return self.request.delivery_info["routing_key"]

@app.task(acks_late=False)
def once():
    book.incr("charged")
    os.kill(os.getpid(), 9)

@app.task(bind=True, max_retries=None)
def poll(self):
    if book.incr("polls") < 8:
        raise self.retry(countdown=0.05)
    return "done"

@app.task(bind=True)
def twice(self):
    book.incr("twice")
    try:
        raise ConnectionResetError("no")
    except ConnectionResetError as error:
        raise self.retry(exc=error, countdown=0.05, max_retries=1)

@app.task(circuit="slow")
def slow():
    time.sleep(1.5)
    return "slow"

@app.task(base=Context, circuit="wrapped", bind=True)
def wrapped(self):
    if not self.request.retries:
        raise ConnectionResetError("no")
    return self.request.retries

@app.task(name="send mail", base=Context)
def mail():
    return "sent"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "edges.py").write_text(PROJECT)
    return folder


@pytest.fixture
def stock(shop_redis: str) -> Iterator[Celery]:
    app = Celery("stock", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    app.conf.broker_transport_options = {"priority_steps": list(range(10)), "sep": ":"}
    yield app
    app.close()


@pytest.fixture
def start(project: Path, shop_redis: str, tmp_path: Path) -> Iterator[object]:
    started: list[WorkerProcess] = []

    def one(name: str, **options: object) -> WorkerProcess:
        worker = WorkerProcess(project, name, tmp_path, app="edges", env={"SHOP_REDIS": shop_redis}, **options)
        started.append(worker)
        worker.start()
        return worker

    yield one
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()


@pytest.fixture
def breakers(shop_redis: str) -> Iterator[Breakers]:
    policy = BreakerPolicy(open_s=1.0, open_max_s=1.0, permit_lease_s=0.6)
    patient = BreakerPolicy(open_s=3.0, open_max_s=3.0)  # long enough for a slow machine to see it open
    made = Breakers.from_url(f"{shop_redis}/0", policies={"slow": policy, "dep": patient})
    yield made
    made.close()


def held_in(broker: redis.Redis, claims: str) -> int:
    """How many messages a worker's claims hold."""
    return sum(1 for field in broker.hkeys(claims) if field.isdigit())


def open_circuit(breakers: Breakers, name: str) -> None:
    for _ in range(5):
        breakers.record_failure(name)
    assert breakers.get_state(name) == "open"


def test_a_dead_workers_priority_messages_return_to_the_lists_that_are_consumed(
    stock: Celery, start, book: redis.Redis, broker: redis.Redis
) -> None:
    victim = start("victim")
    victim.wait_ready()
    for n in range(4):
        stock.send_task("edges.hold", (n,), priority=5, ignore_result=True)
    (key,) = until(lambda: broker.keys("celeriac:v1:claims:*"))
    until(lambda: held_in(broker, key) == 4 and book.llen("began") == 2, what="the window is full")
    victim.kill()
    start("other").wait_ready()
    book.set("go", "1")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 4, what="all four ran on the other worker")


def test_a_worker_is_known_before_it_holds_its_first_message_so_its_death_is_noticed(
    stock: Celery, start, book: redis.Redis, broker: redis.Redis
) -> None:
    for n in range(4):
        stock.send_task("edges.hold", (n,), ignore_result=True)
    victim = start("victim")
    (key,) = until(
        lambda: [key for key in broker.keys("celeriac:v1:claims:*") if held_in(broker, key)],
        what="it holds its first message",
    )
    victim.kill()
    owner = key.removeprefix("celeriac:v1:claims:")
    assert broker.zscore("celeriac:v1:workers", owner) is not None
    start("other").wait_ready()
    book.set("go", "1")
    until(lambda: not broker.exists(key), what="what it held went back")
    until(lambda: len(set(book.lrange("ran", 0, -1))) == 4, what="all ran on the other worker")


def test_a_parked_task_of_a_topic_queue_and_its_address_come_home(
    stock: Celery, start, breakers: Breakers, project: Path, shop_redis: str, broker: redis.Redis
) -> None:
    stock.conf.task_queues = [Queue("celery"), Queue("topical", Exchange("tasks", "topic"), routing_key="task.#")]
    worker = start("w1", queues="celery,topical")
    worker.wait_ready()  # it declares the binding
    open_circuit(breakers, "dep")
    addressed = [stock.send_task("edges.where") for _ in range(3)]
    topical = [stock.send_task("edges.topical", (n,), queue="topical") for n in range(3)]
    assert [result.get(timeout=20) for result in topical] == [0, 1, 2]
    assert [result.get(timeout=20) for result in addressed] == ["celery"] * 3, "not the parking queue's address"
    assert "moved from topical to celeriac.parked.dep|topical" in worker.log()
    assert not broker.keys("_kombu.binding.*parked*")


def test_a_task_that_is_acknowledged_early_runs_at_most_once_when_its_child_dies(
    stock: Celery, start, book: redis.Redis
) -> None:
    start("w1").wait_ready()
    result = stock.send_task("edges.once")
    with pytest.raises(Exception, match="exited prematurely"):
        result.get(timeout=20)
    assert book.get("charged") == "1"


def test_a_task_that_polls_opens_no_circuit_and_a_retry_limit_of_its_own_holds(
    stock: Celery, start, book: redis.Redis, breakers: Breakers
) -> None:
    start("w1").wait_ready()
    assert stock.send_task("edges.poll").get(timeout=20) == "done"
    assert breakers.get_state("edges.poll") == "closed"
    with pytest.raises(Exception, match="no"):
        stock.send_task("edges.twice").get(timeout=20)
    assert book.get("twice") == "2"


def test_probes_that_outlast_their_lease_still_close_the_circuit(stock: Celery, start, breakers: Breakers) -> None:
    open_circuit(breakers, "slow")
    sent = [stock.send_task("edges.slow") for _ in range(4)]
    start("w1").wait_ready()
    assert [result.get(timeout=30) for result in sent] == ["slow"] * 4
    until(lambda: breakers.get_state("slow") == "closed", what="its probes, twice as long as their lease, closed it")


def test_a_base_class_with_a_call_of_its_own_is_guarded_and_an_odd_name_is_no_trouble(
    stock: Celery, start, book: redis.Redis, breakers: Breakers
) -> None:
    start("w1").wait_ready()
    assert stock.send_task("edges.wrapped").get(timeout=20) == 1, "the matrix retried it"
    until(lambda: breakers.snapshot("wrapped").get("calls") == 2, what="both attempts fed its circuit")
    assert stock.send_task("send mail").get(timeout=20) == "sent"
    assert book.get("wrapped") == "3"


@pytest.mark.parametrize(
    "header",
    [
        {"home": "celery", "level": 2, "spent": 0, "hops": [], "hop_count": 1},  # a level that a deploy removed
        {"home": ["x"], "level": "y", "spent": None, "hops": 7, "hop_count": {}},
        "x" * 1_000_000,
        10**30,
    ],
    ids=["unknown level", "wrong types", "a megabyte", "a number"],
)
def test_a_strange_header_costs_nothing(stock: Celery, start, header: object) -> None:
    start("w1").wait_ready()
    assert stock.send_task("edges.where", headers={"celeriac": header}).get(timeout=10) == "celery"
    assert stock.send_task("edges.where", retries=10**6).get(timeout=10) == "celery"


def test_a_state_of_a_newer_release_stops_no_worker(stock: Celery, start, broker: redis.Redis) -> None:
    broker.hset("celeriac:v1:circuits", mapping={"other": "forced_open 3 0", "dep": "frozen_solid 9 0"})
    broker.hset("celeriac:v1:circuit:dep", mapping={"state": "frozen_solid", "epoch": 9})
    broker.hset("celeriac:v1:circuits", "bad", "not a row at all of ours")
    worker = start("w1")
    worker.wait_ready()
    assert [stock.send_task("edges.where").get(timeout=10) for _ in range(5)] == ["celery"] * 5
    assert "Unrecoverable" not in worker.log()
    assert "frozen_solid" in worker.log()


def test_an_upstream_that_says_come_back_in_a_thousand_years_is_not_believed() -> None:
    from resilience.errors import MATRIX, ErrorCategory
    from resilience.retry.backoff import delay_s

    assert delay_s(MATRIX[ErrorCategory.RATE_LIMIT], 0, 1e12, lambda: 1.0) <= 3600 * 1.1
