"""Fallback levels of a foreign project on real workers: another task stands in, and `on_open` says what happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord
from celery.result import AsyncResult

from resilience import Breakers, CircuitOpenError
from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.integration.conftest import SHOP

HOME, LIST, PAPER = "prices", "prices@tasks.list_price", "prices@tasks.paper_price@paper"
PARKED = "celeriac.parked.prices|celery"
WHY = {"actor": "ann", "reason": "the test says so"}


@dataclass(frozen=True)
class Town:
    """Two workers of the home queue, one of the queue `paper`, and a Redis of their own."""

    url: str
    logs: Path
    home: tuple[WorkerProcess, WorkerProcess]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The tests of this file share it; the last one kills a worker."""
    logs = tmp_path_factory.mktemp("town")
    with RedisServer() as server:
        url = server.url().rpartition("/")[0]
        first, second, paper = (
            WorkerProcess(SHOP, name, logs, queues=queues, env={"SHOP_REDIS": url})
            for name, queues in (("w1", "celery"), ("w2", "celery"), ("paper", "paper"))
        )
        for worker in (first, second, paper):
            worker.start()
        try:
            for worker in (first, second, paper):
                worker.wait_ready()
            yield Town(url, logs, (first, second))
        finally:
            for worker in (first, second, paper):
                worker.ask_to_stop()
            for worker in (first, second, paper):
                worker.stop()


@pytest.fixture
def breakers(town: Town) -> Iterator[Breakers]:
    """All circuits of the prices are closed at the end."""
    with closing(Breakers.from_url(f"{town.url}/0")) as made:
        yield made
        for circuit in (HOME, LIST, PAPER):
            if made.get_state(circuit) != "closed":
                made.reset(circuit, **WHY)


@pytest.fixture
def stock(town: Town) -> Iterator[Celery]:
    """A publisher that knows nothing of the middleware, so nothing is routed at publish time."""
    app = Celery("stock", broker=f"{town.url}/0", backend=f"{town.url}/1")
    yield app
    app.close()


@pytest.fixture
def book(town: Town) -> Iterator[redis.Redis]:
    """What the shop's tasks write down; empty."""
    with redis.Redis.from_url(f"{town.url}/2", decode_responses=True) as client:
        client.flushdb()
        yield client


@pytest.fixture
def broker(town: Town) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{town.url}/0", decode_responses=True) as client:
        yield client


def price(stock: Celery, item: int, **options: Any) -> AsyncResult:
    return stock.send_task("tasks.price", (item,), headers={"tenant": f"t{item}"}, **options)


def answered(by: str, on: str, items: range) -> list[dict[str, Any]]:
    return [{"item": item, "by": f"tasks.{by}", "on": on, "tenant": f"t{item}"} for item in items]


def test_another_task_stands_in_while_circuits_are_open_and_the_first_returns_by_itself(
    town: Town, stock: Celery, breakers: Breakers, book: redis.Redis, broker: redis.Redis
) -> None:
    breakers.force_open(HOME, **WHY)
    until(lambda: price(stock, 0).get(timeout=20)["by"] == "tasks.list_price", what="both workers know of it")

    sent = [price(stock, item, priority=item % 2 * 3) for item in range(6)]
    assert [one.get(timeout=20) for one in sent] == answered("list_price", "celery", range(6))
    assert any("moved from celery to tasks.list_price on celery" in worker.log() for worker in town.home)

    header = [stock.signature("tasks.price", (item,), app=stock) for item in range(4)]
    whole = chord(header, app=stock)(stock.signature("tasks.count", app=stock))
    assert whole.get(timeout=20) == ["tasks.list_price"] * 4

    breakers.force_open(LIST, **WHY)
    until(lambda: price(stock, 1).get(timeout=20)["by"] == "tasks.paper_price", what="the next level stands in")
    sent = [price(stock, item) for item in range(4)]
    assert [one.get(timeout=20) for one in sent] == answered("paper_price", "paper", range(4))

    breakers.force_open(PAPER, **WHY)
    until(lambda: price(stock, 1).ready() or broker.keys("*parked.prices*"), what="no level is left")
    sent = [price(stock, item) for item in range(3)]
    until(lambda: broker.llen(PARKED) >= 3, what="it waits")
    for circuit in (LIST, PAPER, HOME):
        breakers.auto(circuit, **WHY)
    answers = [one.get(timeout=20) for one in sent]
    assert [answer["item"] for answer in answers] == [0, 1, 2]
    assert "tasks.price" in {answer["by"] for answer in answers}, "the name that was sent is back"
    until(lambda: breakers.get_state(HOME) == "closed", what="the probes close it")
    assert price(stock, 7).get(timeout=20) == answered("price", "celery", range(7, 8))[0]

    book.set("no prices today", 1)
    assert price(stock, 8).get(timeout=20) == answered("list_price", "celery", range(8, 9))[0]
    book.rpush("come again", 1)
    assert price(stock, 9).get(timeout=20) == answered("price", "celery", range(9, 10))[0], "a retry goes home"
    assert breakers.snapshot("tasks.list_price") == {}, "its own circuit has no part in it"


def test_1000_tasks_across_three_outages_are_each_answered_and_run_once(
    stock: Celery, breakers: Breakers, book: redis.Redis, broker: redis.Redis
) -> None:
    sent: list[AsyncResult] = []
    for outage in ((HOME,), (HOME, LIST), (HOME, LIST, PAPER)):
        sent += [price(stock, len(sent) + number) for number in range(150)]
        for circuit in outage:
            breakers.force_open(circuit, **WHY)
        sent += [price(stock, len(sent) + number) for number in range(180)]
        until(lambda: not broker.llen("celery"), within_s=60, what="all went somewhere")
        for circuit in reversed(outage):
            breakers.reset(circuit, **WHY)
    sent += [price(stock, 990 + number) for number in range(10)]
    answers = stock.ResultSet(sent).get(timeout=60)
    assert [answer["item"] for answer in answers] == list(range(1000))
    assert {answer["by"] for answer in answers} == {"tasks.price", "tasks.list_price", "tasks.paper_price"}
    assert answers[-1]["by"] == "tasks.price", "home again"
    assert sorted(map(int, book.lrange("offered", 0, -1))) == list(range(1000)), "each ran once"


def test_an_open_circuit_parks_or_fails_a_task_that_says_so(
    stock: Celery, breakers: Breakers, book: redis.Redis, broker: redis.Redis
) -> None:
    breakers.force_open(HOME, **WHY)
    before = breakers.snapshot(HOME)

    patient = [stock.send_task("tasks.patient_price", (item,)) for item in range(4)]
    until(lambda: broker.llen(PARKED) == 4, what="they wait, although a level is healthy")

    mourning = stock.signature("tasks.mourn", app=stock)
    instant = stock.send_task("tasks.instant_price", (1,), link_error=mourning)
    with pytest.raises(CircuitOpenError, match="prices is forced_open"):
        instant.get(timeout=20)
    until(lambda: book.lrange("mourned", 0, -1) == [instant.id], what="its errback ran")
    header = [stock.signature("tasks.instant_price", (item,), app=stock) for item in range(2)]
    body = stock.signature("tasks.count", app=stock)
    with pytest.raises(CircuitOpenError, match="prices is forced_open"):
        chord(header, app=stock)(body).get(timeout=20)
    assert breakers.snapshot(HOME)["failures"] == before["failures"], "a refusal is no failure of the circuit"

    breakers.auto(HOME, **WHY)
    assert [one.get(timeout=20)["by"] for one in patient] == ["tasks.patient_price"] * 4
    until(lambda: breakers.get_state(HOME) == "closed", what="the parked tasks were its probes")
    assert stock.send_task("tasks.instant_price", (2,)).get(timeout=20)["by"] == "tasks.instant_price"


def test_a_worker_does_not_start_with_a_substitute_that_it_could_not_run(town: Town) -> None:
    env = {"SHOP_REDIS": town.url, "SHOP_STAND_IN": "tasks.list_prices"}
    with pytest.raises(AssertionError, match=r"price: fallback_task\('tasks.list_prices'\) names no task of this app"):
        WorkerProcess(SHOP, "mistaken", town.logs, env=env).__enter__()


def test_a_worker_that_is_killed_in_a_task_that_stands_in_leaves_the_one_that_was_sent(
    town: Town, stock: Celery, breakers: Breakers, book: redis.Redis
) -> None:
    breakers.force_open(HOME, **WHY)
    until(lambda: price(stock, 0).get(timeout=20)["by"] == "tasks.list_price", what="the workers know of it")
    book.delete("offered")
    book.rpush("die", 1)
    sent = price(stock, 3)
    until(lambda: any(worker.returncode is not None for worker in town.home), what="one is dead")
    assert sent.get(timeout=20) == answered("list_price", "celery", range(3, 4))[0]
    assert book.lrange("offered", 0, -1) == ["3"]
    moves = [f"task tasks.price[{sent.id}] moved from celery" in worker.log() for worker in town.home]
    assert moves == [True, True], "the broker had kept the one that was sent, so the other worker judged it anew"
