"""Every way into the quarantine, with real workers: the message arrives there whole, and the worker goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.quarantine.desk import Quarantine
from resilience.quarantine.record import Record
from resilience.testing import WorkerProcess, until
from tests.claims import claimed
from tests.integration.conftest import StartWorkers

HOSPITAL = Path(__file__).parent.parent / "foreign" / "hospital"
TASK = "tasks.good"


@pytest.fixture
def app(shop_redis: str) -> Iterator[Celery]:
    """A publisher, and an operator's program."""
    app = Celery("hospital", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False)
    res = Resilience(app)
    yield app
    res.quarantine.close()
    app.close()


@pytest.fixture
def quarantine(app: Celery) -> Quarantine:
    return app.resilience.quarantine


@pytest.fixture
def ward(shop_redis: str, tmp_path: Path) -> Iterator[StartWorkers]:
    """Start a worker of the hospital."""
    started: list[WorkerProcess] = []

    def start(name: str = "w", **options: object) -> WorkerProcess:
        env = {"SHOP_REDIS": shop_redis, **options.pop("env", {})}  # type: ignore[dict-item]
        worker = WorkerProcess(HOSPITAL, name, tmp_path, env=env, **options)  # type: ignore[arg-type]
        started.append(worker)
        worker.start()
        worker.wait_ready()
        return worker

    yield start
    for worker in started:
        worker.stop()


def message(task: str = TASK, args: object = (1,), kwargs: object = None, **headers: object) -> dict[str, object]:
    """A message as Celery lays it into a queue, of protocol 2."""
    task_id = str(uuid.uuid4())
    told = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "group": None,
            "argsrepr": repr(args), "kwargsrepr": repr(kwargs or {}), "retries": 0, "eta": None, "expires": None,
            "timelimit": [None, None], "origin": "a test", "ignore_result": False, **headers}  # fmt: skip
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "body": json.dumps([args, kwargs or {}, embed]), "content-type": "application/json",
        "content-encoding": "utf-8", "headers": told,
        "properties": {"correlation_id": task_id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0,
                       "delivery_info": {"exchange": "", "routing_key": "celery"}, "delivery_tag": str(uuid.uuid4())},
    }  # fmt: skip


def lay(broker: redis.Redis, *messages: object, queue: str = "celery") -> None:
    for one in messages:
        broker.lpush(queue, one if isinstance(one, (bytes, str)) else json.dumps(one))


def arrived(quarantine: Quarantine, count: int = 1, within_s: float = 20.0) -> list[Record]:
    until(lambda: quarantine.count()["messages"] >= count, within_s, f"{count} in quarantine")
    return quarantine.list(limit=1000)


def runs(app: Celery, book: redis.Redis, number: int) -> None:
    """The worker goes on: it runs a task that was sent after everything else."""
    app.send_task(TASK, (number,))
    until(lambda: str(number) in book.lrange("ran", 0, -1), what="a good task ran afterwards")


UNREADABLE = {
    "no text at all": (b"\xff\xfe\x00{", "undecodable"),
    "empty": (b"", "undecodable"),
    "a number": (b"42", "undecodable"),
    "a list": (b"[1, 2]", "undecodable"),
    "too deep": (b"[" * 200_000, "undecodable"),
    "without properties": (json.dumps({"body": "x", "headers": {}}), "undecodable"),
    "headers that are a list": (json.dumps({**message(), "headers": ["task"]}), "undecodable"),
    "a body that is no base64": (
        json.dumps({**message(), "properties": {"body_encoding": "base64", "delivery_info": {}}, "body": "%%%a"}),
        "undecodable",
    ),
    "a body of nonsense": ({**message(), "body": "{nonsense"}, "undecodable"),
    "an unknown content type": ({**message(), "content-type": "application/x-yaml"}, "undecodable"),
    "an encoding that is a number": ({**message(), "content-encoding": 8}, "undecodable"),
    "an unknown compression": (message(compression="application/x-none"), "undecodable"),
    "no task": ({**message(), "headers": {"hello": "world"}}, "malformed"),
    "a task that is a list": (message(task=["tasks.good"]), "malformed"),  # type: ignore[arg-type]
    "a body that is a text": ({**message(), "body": '"hello"'}, "malformed"),
    "no id": (message(id=None), "malformed"),
    "an id that is a list": (message(id=[1]), "malformed"),
    "a time limit that is a text": (message(timelimit=["soon", None]), "malformed"),
    "an eta that is a number": (message(eta=12), "malformed"),
    "an eta of nonsense": (message(eta="tomorrow"), "malformed"),
    "arguments that are a text": (message(args="abc"), "malformed"),
    "an address that is a text": (
        {**message(), "properties": {"delivery_info": "celery", "delivery_tag": "x"}}, "malformed"
    ),
    "an unknown task": (message(task="tasks.nobody_knows"), "unknown_task"),
    "an unknown task without an id": (message(task="tasks.nobody_knows", id=None), "unknown_task"),
}  # fmt: skip

END_KOMBU = {
    "no text at all", "empty", "a number", "a list", "too deep", "without properties", "headers that are a list",
    "a body that is no base64", "an address that is a text",
}  # fmt: skip
"""By what kombu's own transport ends the worker, before anybody can keep the message."""


@pytest.mark.parametrize("transport", ["owned", "kombu's own"])
def test_what_cannot_be_read_is_quarantined_with_its_exact_bytes_and_the_worker_goes_on(
    transport: str, app: Celery, quarantine: Quarantine, broker: redis.Redis, book: redis.Redis, ward: StartWorkers
) -> None:
    inputs = {name: case for name, case in UNREADABLE.items() if transport == "owned" or name not in END_KOMBU}
    ward(env={"RESILIENCE_TRANSPORT_ENABLED": "true" if transport == "owned" else "false"})
    sent = {name: text if isinstance(text, (bytes, str)) else json.dumps(text) for name, (text, _) in inputs.items()}
    for text in sent.values():
        lay(broker, text)
    found = arrived(quarantine, len(sent))
    runs(app, book, 7)
    assert len(found) == len(sent)
    reasons = {}
    for record in found:
        shown = quarantine.show(record.id)
        assert shown is not None
        assert shown.raw is not None
        name = next(name for name, text in sent.items() if _same(text, shown.raw, transport == "owned"))
        reasons[name] = record.reason
        assert record.queue == "celery", name
        assert record.detail, name
    assert reasons == {name: reason for name, (_, reason) in inputs.items()}
    until(lambda: claimed(broker) == 0, what="nothing is left in anybody's hands")


def _same(sent: str | bytes, kept: bytes, exact: bool) -> bool:
    raw = sent.encode() if isinstance(sent, str) else sent
    return raw == kept if exact else json.loads(raw)["body"] == json.loads(kept)["body"] and _of(raw) == _of(kept)


def _of(raw: bytes) -> object:
    envelope = json.loads(raw)
    return envelope["headers"], envelope["content-type"], envelope["content-encoding"]


def test_an_unknown_task_is_a_failure_for_whoever_waits_and_its_message_is_kept(
    app: Celery, quarantine: Quarantine, ward: StartWorkers
) -> None:
    ward()
    result = app.send_task("tasks.nobody_knows", (1,))
    with pytest.raises(Exception, match="nobody_knows"):
        result.get(timeout=20)
    (record,) = arrived(quarantine)
    assert (record.reason, record.task, record.task_id) == ("unknown_task", "tasks.nobody_knows", result.id)


WRONG = {
    "too many": ("tasks.good", (1, 2), {}),
    "too few": ("tasks.good", (), {}),
    "an unknown name": ("tasks.two", (1,), {"middle": 2}),
    "twice": ("tasks.two", (1, 2), {"right": 2}),
}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_failed_task_goes_into_the_quarantine_only_when_it_is_given_up(
    pool: str, app: Celery, quarantine: Quarantine, book: redis.Redis, ward: StartWorkers
) -> None:
    ward(pool=pool, concurrency=1 if pool == "solo" else 2)
    wanted = {
        "tasks.gives_up": "abandoned",
        "tasks.early_and_unreachable": "abandoned",
        "tasks.unreachable": "exhausted",
        "tasks.asks_itself": "exhausted",
        "tasks.retried_by_celery": "exhausted",
    }
    ordinary = ["tasks.bug", "tasks.expected", "tasks.rejects"]
    results = {name: app.send_task(name) for name in (*wanted, *ordinary)}
    results["tasks.inner_type_error"] = app.send_task("tasks.inner_type_error", (5,))
    wrong = {name: app.send_task(*call) for name, call in WRONG.items()}
    app.send_task("tasks.two", (1,), {"only": 3}).get(timeout=20)
    for result in (*results.values(), *wrong.values()):
        with pytest.raises(Exception):  # noqa: B017, PT011  each its own
            result.get(timeout=20)
        assert result.state == "FAILURE"
    found = {record.task_id: record for record in arrived(quarantine, len(wanted) + len(wrong))}
    runs(app, book, 7)
    assert quarantine.count()["messages"] == len(found)
    assert {name: found[results[name].id].reason for name in wanted} == wanted
    for name, result in wrong.items():
        assert found[result.id].reason == "wrong_arguments", name
        assert "cannot be called with its arguments" in found[result.id].detail
    record = found[results["tasks.gives_up"].id]
    assert "hunter2" not in json.dumps(record.to_json())
    assert record.error is not None
    assert record.error["task"] == "tasks.gives_up"


def test_all_failures_or_none_of_them_can_be_asked_for(
    app: Celery, quarantine: Quarantine, book: redis.Redis, ward: StartWorkers
) -> None:
    every = ward("all", env={"RESILIENCE_QUARANTINE_ABANDONED": "all"})
    app.send_task("tasks.bug")
    app.send_task("tasks.expected")
    (record,) = arrived(quarantine)
    assert (record.task, record.reason) == ("tasks.bug", "failed")
    runs(app, book, 7)
    every.stop()
    ward("none", env={"RESILIENCE_QUARANTINE_ABANDONED": "none"})
    for name in ("tasks.gives_up", "tasks.bug"):
        result = app.send_task(name)
        until(lambda result=result: result.state == "FAILURE", what="it failed")
    app.send_task("tasks.good", (1, 2, 3))
    records = arrived(quarantine, 2)
    runs(app, book, 8)
    assert [record.reason for record in records] == ["wrong_arguments", "failed"]


def test_a_task_that_kills_its_process_or_runs_past_its_limit_is_quarantined(
    app: Celery, quarantine: Quarantine, book: redis.Redis, ward: StartWorkers
) -> None:
    ward()
    results = {name: app.send_task(f"tasks.{name}") for name in ("deadly", "endless")}
    found = {record.task_id: record for record in arrived(quarantine, 2, within_s=40)}
    runs(app, book, 7)
    assert quarantine.count()["messages"] == 2
    assert found[results["endless"].id].reason == "time_limit"
    deadly = found[results["deadly"].id]
    assert (deadly.reason, deadly.deaths) == ("poison", 2)
    for result in results.values():
        assert result.state == "FAILURE"


def test_without_the_quarantine_nothing_is_kept(
    app: Celery, quarantine: Quarantine, broker: redis.Redis, book: redis.Redis, ward: StartWorkers
) -> None:
    """The twin: what fills the quarantine above is its exits."""
    ward(env={"RESILIENCE_QUARANTINE_ENABLED": "false"})
    lay(broker, message(task="tasks.nobody_knows"))
    app.send_task("tasks.gives_up")
    runs(app, book, 7)
    until(lambda: broker.llen("celery") == 0, what="everything was taken")
    assert quarantine.count()["messages"] == 0


def test_while_redis_refuses_nothing_is_acknowledged_and_the_worker_goes_on(
    app: Celery, quarantine: Quarantine, broker: redis.Redis, book: redis.Redis, ward: StartWorkers
) -> None:
    """A wrong key makes every put fail, and nothing else."""
    worker = ward()
    broker.set("celeriac:v1:quarantine:messages", "in the way")
    lay(broker, b"\xff")
    given_up = app.send_task("tasks.gives_up")
    early = app.send_task("tasks.early_and_unreachable")
    until(lambda: worker.log().count("did not take a message") >= 2, what="it says so, and tries again")
    until(lambda: given_up.state == early.state == "FAILURE", what="their callers know")
    runs(app, book, 7)
    until(lambda: claimed(broker) == 2, what="the bytes and the late acknowledged task are still the worker's")
    assert quarantine.count()["messages"] == 0
    broker.delete("celeriac:v1:quarantine:messages")
    found = arrived(quarantine, 3)
    assert sorted(record.reason for record in found) == ["abandoned", "abandoned", "undecodable"]
    until(lambda: claimed(broker) == 0, what="now they are acknowledged")


def test_a_worker_that_dies_while_redis_refuses_loses_nothing(
    app: Celery, quarantine: Quarantine, broker: redis.Redis, ward: StartWorkers
) -> None:
    worker = ward("victim")
    broker.set("celeriac:v1:quarantine:messages", "in the way")
    lay(broker, b"\xff", message(task="tasks.nobody_knows"))
    until(lambda: "did not take a message" in worker.log(), what="it is refused")
    worker.kill()
    broker.delete("celeriac:v1:quarantine:messages")
    ward("next")
    found = arrived(quarantine, 2)
    assert sorted(record.reason for record in found) == ["undecodable", "unknown_task"]


def test_a_replayed_message_runs_under_its_id_and_one_that_fails_again_comes_back_counted(
    app: Celery, quarantine: Quarantine, book: redis.Redis, ward: StartWorkers
) -> None:
    result = app.send_task("tasks.gives_up")
    early = ward("w")
    (record,) = arrived(quarantine)
    quarantine.replay([record.id], actor="ada", reason="a try")
    (again,) = until(lambda: [one for one in quarantine.list() if one.id != record.id], what="it failed again")
    assert (again.task_id, again.replays, again.reason) == (result.id, 1, "abandoned")
    lost = app.send_task("tasks.nobody_knows", (41,))
    until(lambda: quarantine.count()["messages"] == 2, what="the unknown one is there too")
    early.stop()
    assert lost.state == "FAILURE"
