"""What our way of sending puts on Redis and tells by signals is what Celery's own does, field by field."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import redis
from celery import Celery, chain, chord, group, signals
from kombu import Exchange, Queue

from resilience import Resilience
from resilience.local.redis_server import RedisServer
from resilience.sending import LeanSender

LATER = datetime(2099, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
Call = Callable[[Celery, Any], Any]


def _on_connection(app: Celery, task: Any) -> None:
    with app.connection_for_write() as connection:
        task.apply_async((1,), connection=connection, task_id="t")


def _by_producer(app: Celery, task: Any) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        task.apply_async((1,), producer=producer, task_id="t")


def _stamped(_app: Celery, task: Any) -> None:
    signature = task.s(1).set(task_id="t")
    signature.stamp(colour="red", size=[1, 2])
    signature.apply_async()


def _in_batch(app: Celery, task: Any) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        task.apply_async((1,), producer=producer, task_id="t")


EVERYDAY: dict[str, Call] = {
    "no arguments": lambda _, task: task.apply_async(task_id="t"),
    "an empty list": lambda _, task: task.apply_async([], {}, task_id="t"),
    "positional": lambda _, task: task.apply_async((1, "two", 3.5, None, True), task_id="t"),
    "a list of arguments": lambda _, task: task.apply_async([1, 2], task_id="t"),
    "keywords": lambda _, task: task.apply_async((), {"a": 1, "b": "it's"}, task_id="t"),
    "nested": lambda _, task: task.apply_async(({"a": [1, {"b": (2, [3, [4, [5]]])}]},), task_id="t"),
    "text with quotes": lambda _, task: task.apply_async(('it\'s "so" \\ \n\t',), task_id="t"),
    "text of other scripts": lambda _, task: task.apply_async(("žluťoučký 漢字 🥕",), task_id="t"),
    "long text": lambda _, task: task.apply_async(("words " * 400,), {"k": "x" * 5000}, task_id="t"),
    "text as long as is shown": lambda _, task: task.apply_async(("x" * 1020,), task_id="t"),
    "many arguments": lambda _, task: task.apply_async(tuple(range(600)), task_id="t"),
    "numbers": lambda _, task: task.apply_async((10**30, -0.0, 1e300, Decimal("1.20")), task_id="t"),
    "dates and ids": lambda _, task: task.apply_async((LATER, LATER.date(), UUID(int=7)), task_id="t"),
    "bytes": lambda _, task: task.apply_async((b"plain", b"\xff\x00"), task_id="t"),
    "sets in the text": lambda _, task: task.apply_async((), {"a": {"k": (1,)}, "e": {}}, task_id="t"),
    "keys that are no text": lambda _, task: task.apply_async(({1: 2, None: 3},), task_id="t"),
    "queue by name": lambda _, task: task.apply_async((1,), queue="other", task_id="t"),
    "queue on the fly": lambda _, task: task.apply_async((1,), queue=Queue("made"), task_id="t"),
    "queue without declaration": lambda _, task: task.apply_async(
        (1,), queue=Queue("bare", Exchange("", type="direct"), "bare", no_declare=True), task_id="t"
    ),
    "queue of an exchange": lambda _, task: task.apply_async((1,), queue="bound", task_id="t"),
    "queue that expires": lambda _, task: task.apply_async((1,), queue="short", task_id="t"),
    "transient queue": lambda _, task: task.apply_async((1,), queue="passing", task_id="t"),
    "routing key beside a queue": lambda _, task: task.apply_async((1,), queue="other", routing_key="k", task_id="t"),
    "priority 0": lambda _, task: task.apply_async((1,), priority=0, task_id="t"),
    "priority 5": lambda _, task: task.apply_async((1,), priority=5, task_id="t"),
    "priority out of range": lambda _, task: task.apply_async((1,), priority=99, task_id="t"),
    "priority below": lambda _, task: task.apply_async((1,), priority=-3, task_id="t"),
    "countdown": lambda _, task: task.apply_async((1,), countdown=60, task_id="t"),
    "eta": lambda _, task: task.apply_async((1,), eta=LATER, task_id="t"),
    "naive eta": lambda _, task: task.apply_async((1,), eta=LATER.replace(tzinfo=None), task_id="t"),
    "expires in seconds": lambda _, task: task.apply_async((1,), expires=60, task_id="t"),
    "expires in parts of seconds": lambda _, task: task.apply_async((1,), expires=1.5, task_id="t"),
    "countdown and expires": lambda _, task: task.apply_async((1,), countdown=3, expires=9, task_id="t"),
    "ignored result": lambda _, task: task.apply_async((1,), ignore_result=True, task_id="t"),
    "wanted result": lambda _, task: task.apply_async((1,), ignore_result=False, task_id="t"),
    "headers": lambda _, task: task.apply_async((1,), headers={"x-tenant": "a", "n": 1}, task_id="t"),
    "headers over ours": lambda _, task: task.apply_async((1,), headers={"origin": "me"}, task_id="t"),
    "shadow": lambda _, task: task.apply_async((1,), shadow="another.name", task_id="t"),
    "limits": lambda _, task: task.apply_async((1,), time_limit=30, soft_time_limit=20, task_id="t"),
    "link": lambda _, task: task.apply_async((1,), link=task.s(2).set(task_id="l"), task_id="t"),
    "links": lambda _, task: task.apply_async(
        (1,), link=[task.s(2).set(task_id="l")], link_error=[task.si(3).set(task_id="e")], task_id="t"
    ),
    "group and root": lambda _, task: task.apply_async(
        (1,), group_id="g", group_index=3, root_id="r", parent_id="p", task_id="t"
    ),
    "reply_to": lambda _, task: task.apply_async((1,), reply_to="somebody", task_id="t"),
    "retries": lambda _, task: task.apply_async((1,), retries=2, task_id="t"),
    "pickle": lambda _, task: task.apply_async(({"a": {1, 2}},), serializer="pickle", task_id="t"),
    "compressed": lambda _, task: task.apply_async(("x" * 500,), compression="zlib", task_id="t"),
    "delivery mode": lambda _, task: task.apply_async((1,), delivery_mode="transient", task_id="t"),
    "delivery mode as a number": lambda _, task: task.apply_async((1,), delivery_mode=1, task_id="t"),
    "no retry": lambda _, task: task.apply_async((1,), retry=False, task_id="t"),
    "a retry policy": lambda _, task: task.apply_async((1,), retry_policy={"max_retries": 9}, task_id="t"),
    "stamps": _stamped,
    "a producer of the pool": _by_producer,
    "a signature": lambda _, task: task.s(1, b=2).set(priority=3, task_id="t").apply_async(),
    "a signature with more": lambda _, task: task.s(1).set(task_id="t").apply_async((0,), {"b": 2}, priority=6),
    "delay": lambda _, task: task.delay(1, b="x"),
    "by name": lambda app, _: app.send_task("elsewhere.task", (1,), {"a": 2}, task_id="t"),
    "by name, known here": lambda app, _: app.send_task("optioned", (1,), task_id="t"),
    "by name, without a limit": lambda app, _: app.send_task("optioned", (1,), time_limit=None, task_id="t"),
    "a task with options": lambda app, _: app.tasks["optioned"].apply_async((1,), task_id="t"),
    "a routed task": lambda app, _: app.tasks["routed"].apply_async((1,), task_id="t"),
    "a retry's signature": lambda _, task: task.signature((1,), {}, {"task_id": "t", "retries": 1}).apply_async(),
    "chain": lambda _, task: chain(task.s(1), task.s(2), task.s(3)).apply_async(task_id="t"),
    "group": lambda _, task: group(task.s(1), task.s(2)).apply_async(task_id="t"),
    "chord": lambda _, task: chord([task.s(1), task.s(2)], task.s(3)).apply_async(task_id="t"),
}
"""Calls that go the lean way."""

UNUSUAL: dict[str, Call] = {
    "positional options": lambda app, _: app.send_task("plain", (1,), {}, 30, task_id="t"),
    "exchange": lambda _, task: task.apply_async((1,), exchange="bound", routing_key="key", task_id="t"),
    "topic": lambda _, task: task.apply_async((1,), queue="topical", task_id="t"),
    "expires at a time": lambda _, task: task.apply_async((1,), expires=LATER, task_id="t"),
    "expires in the past": lambda _, task: task.apply_async(
        (1,), expires=LATER - timedelta(days=99_999 // 3), task_id="t"
    ),
    "a property": lambda _, task: task.apply_async((1,), user_id="me", task_id="t"),
    "a connection": _on_connection,
    "a batch of kombu's": _in_batch,
    "mandatory": lambda _, task: task.apply_async((1,), mandatory=True, task_id="t"),
    "a retry policy with more": lambda _, task: task.apply_async(
        (1,), retry_policy={"max_retries": 1, "retry_errors": (KeyError,)}, task_id="t"
    ),
}
"""Calls that go Celery's own way."""

CALLS = {**EVERYDAY, **UNUSUAL}


def shop(url: str, *, resilient: bool) -> tuple[Celery, Any]:
    app = Celery("shop", broker=url, backend="cache+memory://", set_as_current=False)
    app.conf.update(
        accept_content=["json", "pickle"],
        task_queues=[
            Queue("celery"),
            Queue("other"),
            Queue("bound", Exchange("bound"), "key"),
            Queue("short", expires=600),
            Queue("passing", Exchange("passing", delivery_mode="transient"), "passing"),
            Queue("topical", Exchange("topics", type="topic"), "a.#"),
        ],
        task_routes={"routed": {"queue": "other", "priority": 4}},
    )
    if resilient:
        Resilience(app)

    @app.task(name="plain", shared=False, typing=False)
    def plain() -> None: ...

    @app.task(
        name="optioned", shared=False, typing=False, expires=30, time_limit=9,
        compression="zlib", serializer="pickle", ignore_result=True,
    )  # fmt: skip
    def optioned() -> None: ...

    @app.task(name="routed", shared=False, typing=False)
    def routed() -> None: ...

    return app, plain


@pytest.fixture(scope="module")
def apps(redis_server: RedisServer) -> Iterator[tuple[Any, Any]]:
    """Stock Celery and ours, each with its plain task, each on an empty database of its own."""
    server = redis_server.url().rsplit("/", 1)[0]
    with redis.Redis.from_url(server) as client:
        client.flushall()
    stock, ours = shop(f"{server}/0", resilient=False), shop(f"{server}/1", resilient=True)
    with stock[0], ours[0]:
        yield stock, ours


def left(app: Celery, task: Any, call: Call) -> dict[str, Any]:
    """What a call leaves on Redis and says by signals."""
    with told() as signalled, redis.Redis.from_url(app.conf.broker_url) as client:
        call(app, task)
        contents = _contents(client, app)
        client.delete(*(key for key in client.scan_iter() if client.type(key) == b"list"))
    return {"keys": contents, "signals": [_comparable(each, app) for each in signalled]}


@contextmanager
def told() -> Iterator[list[Any]]:
    heard: list[Any] = []

    def hear(name: str) -> Callable[..., None]:
        return lambda sender=None, signal=None, **words: heard.append(json.dumps([name, sender, words], default=repr))

    receivers = {signal: hear(signal.name) for signal in (signals.before_task_publish, signals.after_task_publish)}
    for signal, receiver in receivers.items():
        signal.connect(receiver, weak=False)
    yield heard
    for signal, receiver in receivers.items():
        signal.disconnect(receiver)


def _contents(client: redis.Redis, app: Celery) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in sorted(client.keys()):
        name = key.decode()
        if client.type(key) == b"list":
            found[name] = [_message(raw, app) for raw in client.lrange(key, 0, -1)]
        elif client.type(key) == b"set":
            found[name] = sorted(client.smembers(key))
        else:
            found[name] = client.type(key)
    return found


def _message(raw: bytes, app: Celery) -> list[Any]:
    message = json.loads(raw)
    message["properties"]["delivery_tag"] = "TAG"
    body = base64.b64decode(message["body"])
    message["body"] = body.hex() if message["headers"].get("compression") else _comparable(repr(body), app)
    return _in_order(json.loads(_comparable(json.dumps(message), app)))


def _in_order(value: Any) -> Any:
    """As pairs, so that the order of the fields is compared, too."""
    if isinstance(value, dict):
        return [(key, _in_order(item)) for key, item in value.items()]
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def _comparable(text: str, app: Celery) -> str:
    """Ids of chance and times of day by their kind."""
    text = text.replace(app.thread_oid, "OID")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r'("expiration": "?)\d{10,}\.?\d*', r"\1LONG", text)
    return re.sub(r"20(?!99)\d\d-\d\d-\d\dT[\d:.]+", "TIME", text)


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_leaves_what_stock_celery_leaves(apps: tuple[Any, Any], kind: str) -> None:
    (stock, its_task), (ours, our_task) = apps
    expected, found = left(stock, its_task, CALLS[kind]), left(ours, our_task, CALLS[kind])
    assert any(not key.startswith("_kombu") for key in expected["keys"]), "it published"
    assert found["keys"] == expected["keys"]
    assert found["signals"] == expected["signals"]


@pytest.mark.parametrize("kind", CALLS)
def test_everyday_calls_go_the_lean_way_and_no_others(
    apps: tuple[Any, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (ours, task) = apps
    lean: list[str] = []
    compose = LeanSender.compose
    monkeypatch.setattr(LeanSender, "compose", lambda self, *args: lean.append(kind) or compose(self, *args))
    left(ours, task, CALLS[kind])
    assert bool(lean) == (kind in EVERYDAY)
