"""A task whose circuit is open is sent straight to its first healthy level, whichever way it is sent, at no command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group

from resilience import Resilience, fallback_task, send_all
from resilience.testing import until
from tests.integration.publishing_kit import commands, forget_commands

HOME, SECOND, OFFLINE = "chat", "chat@second", "chat@offline"
WHY = {"actor": "ann", "reason": "the test says so"}
SHUT: dict[str, tuple[str, ...]] = {"celery": (), "second": (HOME,), "offline": (HOME, SECOND)}
"""Where a task goes, and the circuits that are open then."""


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("levels", broker=redis_url, result_backend=redis_url, set_as_current=False)
    app.conf.update(task_ignore_result=True, resilience_health_enabled=False)
    Resilience(app)
    levels = ["second", fallback_task("offline"), fallback_task("letter", queue="paper")]
    app.task(_work, name="ask", shared=False, circuit=HOME, fallback=levels)
    app.task(_work, name="patient", shared=False, circuit=HOME, fallback=levels, on_open="park")
    app.task(_work, name="instant", shared=False, circuit=HOME, fallback=levels, on_open="fail")
    for name in ("offline", "letter", "other"):
        app.task(_work, name=name, shared=False, circuit=False)
    app.finalize()
    yield app
    app.resilience.breakers.close()
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


def _work(number: int = 0) -> None:
    """Never run."""


def shut(app: Celery, *circuits: str) -> None:
    breakers = app.resilience.breakers
    for circuit in circuits:
        breakers.force_open(circuit, **WHY)
    until(lambda: not any(map(breakers.may_pass, circuits)), what="this process knows of it")


def taken(redis_url: str, queue: str) -> dict[str, Any]:
    """The headers of the oldest message."""
    with redis.Redis.from_url(redis_url) as client:
        text = client.rpop(queue)
        assert isinstance(text, bytes), f"nothing in {queue}"
        headers: dict[str, Any] = json.loads(text)["headers"]
    return headers


WAYS: dict[str, Callable[[Celery], object]] = {
    "delay": lambda app: app.tasks["ask"].delay(1),
    "apply_async": lambda app: app.tasks["ask"].apply_async((1,), countdown=5, priority=3, headers={"tenant": "t"}),
    "send_task": lambda app: app.send_task("ask", (1,)),
    "signature": lambda app: app.signature("ask", (1,)).apply_async(),
    "group": lambda app: group([app.signature("ask", (1,))], app=app).apply_async(),
    "chain": lambda app: chain(app.signature("ask", (1,)), app.signature("other"), app=app).apply_async(),
    "chord header": lambda app: chord([app.signature("ask", (1,))], app.signature("other"), app=app).apply_async(),
    "with links": lambda app: app.tasks["ask"].apply_async((1,), link=app.signature("other")),
    "send_all": lambda app: send_all([app.signature("ask", (1,))]),
    "Celery's own way": lambda app: Celery.send_task(app, "ask", (1,), task_type=app.tasks["ask"]),
    "an explicit queue": lambda app: app.tasks["ask"].apply_async((1,), queue="celery"),
}


@pytest.mark.parametrize("to", SHUT)
def test_every_way_of_sending_goes_to_the_level_under_its_name(app: Celery, redis_url: str, to: str) -> None:
    shut(app, *SHUT[to])
    for way, send in WAYS.items():
        send(app)
        priority = "\x06\x163" if way == "apply_async" else ""
        headers = taken(redis_url, ("second" if to == "second" else "celery") + priority)
        journey = headers.get("celeriac", {})
        assert headers["task"] == ("offline" if to == "offline" else "ask"), way
        assert journey.get("task") == ("ask" if to == "offline" else None), way
        assert journey.get("home") == (None if to == "celery" else "celery"), way


@pytest.mark.parametrize("to", SHUT)
def test_routing_costs_no_command(app: Celery, redis_url: str, to: str) -> None:
    shut(app, *SHUT[to])
    app.tasks["ask"].delay(0)
    forget_commands(redis_url)
    for number in range(50):
        app.tasks["ask"].delay(number)
    assert commands(redis_url) == {"lpush": 50}


@pytest.mark.parametrize("name", ["patient", "instant"])
def test_what_is_to_wait_or_fail_is_sent_home(app: Celery, redis_url: str, name: str) -> None:
    shut(app, HOME)
    app.tasks[name].delay(1)
    assert "celeriac" not in taken(redis_url, "celery")


def test_a_retry_goes_where_the_circuits_say_now_under_the_name_that_belongs_there(app: Celery, redis_url: str) -> None:
    shut(app, *SHUT["offline"])
    app.tasks["ask"].delay(1)
    sent = taken(redis_url, "celery")
    stands_in = app.tasks["offline"]

    def retried() -> None:
        stands_in.apply_async(
            (1,), task_id=sent["id"], retries=1, queue="celery", headers={"celeriac": sent["celeriac"]}
        )

    retried()
    again = taken(redis_url, "celery")
    assert (again["task"], again["id"], again["retries"]) == ("offline", sent["id"], 1)
    for circuit, queue in ((SECOND, "second"), (HOME, "celery")):
        app.resilience.breakers.auto(circuit, **WHY)
        app.resilience.breakers.reset(circuit, **WHY)
        until(lambda circuit=circuit: app.resilience.breakers.may_pass(circuit), what="this process knows of it")  # type: ignore[misc]
        retried()
        assert taken(redis_url, queue)["task"] == "ask"


def test_a_task_that_is_sent_with_headers_of_another_keeps_its_name(app: Celery, redis_url: str) -> None:
    shut(app, *SHUT["offline"])
    app.tasks["ask"].delay(1)
    sent = taken(redis_url, "celery")
    app.tasks["other"].apply_async(headers={"celeriac": sent["celeriac"]})
    assert taken(redis_url, "celery")["task"] == "other"


def test_by_protocol_1_only_queues_are_levels(app: Celery, redis_url: str) -> None:
    app.conf.task_protocol = 1
    shut(app, *SHUT["offline"])
    app.tasks["ask"].delay(1)
    with redis.Redis.from_url(redis_url) as client:
        assert (client.llen("celery"), client.llen("paper")) == (1, 0)
    assert "celeriac" not in taken(redis_url, "celery")
