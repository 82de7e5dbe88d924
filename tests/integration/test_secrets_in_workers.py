"""Secrets planted in the errors of tasks in a prefork child: none in a log, none in an event; nothing else is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver

from resilience.errors import ErrorCategory, WrappedError
from resilience.testing import WorkerProcess, until

PLANTED = {
    "hunter2-Tr0ub4dor": "Error 111 connecting to redis://:hunter2-Tr0ub4dor@cache:6379/0",
    "sk-proj-4bQxZ9TkVw7RmN2pLs8D": "Incorrect API key provided: sk-proj-4bQxZ9TkVw7RmN2pLs8D",
    "mF_9.B5f-4.1JqM": "sent Authorization: Bearer mF_9.B5f-4.1JqM",
    "8841-2207": "X-Pin: 8841-2207",
    "correct horse": '{"user": "ann", "password": "correct horse"}',
}

PROJECT = f"""
import os, threading
from celery import Celery
from resilience import Resilience, wrap

REDIS = os.environ["SHOP_REDIS"]
app = Celery("planted", broker=f"{{REDIS}}/0", backend=f"{{REDIS}}/1")
app.conf.update(worker_send_task_events=True, resilience_redact_names=["x-pin"])
app.conf.resilience_breaker = {{"consecutive_failures": 1000, "minimum_calls": 1000}}
Resilience(app)
TEXTS = {list(PLANTED.values())!r}

class Unpicklable(ConnectionError):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()

@app.task(max_retries=0)
def plain(number):
    raise ConnectionError(TEXTS[number])

@app.task(max_retries=1)
def retried(number):
    raise ConnectionResetError(TEXTS[number])

@app.task(bind=True, max_retries=0)
def wrapped(self, number):
    try:
        raise Unpicklable(TEXTS[number])
    except ConnectionError as error:
        raise wrap(
            error, operation="charge", task=self.name, task_id=self.request.id, attempt=2, circuit="payments",
            worker=self.request.hostname, text=TEXTS[number], child=os.getpid(),
        )
"""


@pytest.fixture
def worker(shop_redis: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    (tmp_path / "leaky.py").write_text(PROJECT)
    env = {"SHOP_REDIS": shop_redis}
    with WorkerProcess(tmp_path, "leaky", tmp_path, app="leaky", concurrency=1, env=env) as started:
        yield started


@pytest.fixture
def app(shop_redis: str) -> Iterator[Celery]:
    with Celery("asker", broker=f"{shop_redis}/0", backend=f"{shop_redis}/1", set_as_current=False) as asker:
        yield asker


@pytest.fixture
def events(app: Celery) -> Iterator[list[dict[str, Any]]]:
    """Every event on Celery's exchange, as Flower would receive it."""
    received: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = EventReceiver(connection, handlers={"*": received.append}, app=app)
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        until(lambda: received, what="the first event: the workers are asked to say that they are there")
        yield received
        receiver.should_stop = True
        thread.join()


def test_no_secret_of_a_failing_task_reaches_a_log_or_an_event(
    worker: WorkerProcess, app: Celery, events: list[dict[str, Any]]
) -> None:
    names = ("plain", "retried", "wrapped")
    sent = [app.send_task(f"leaky.{name}", (number,)) for name in names for number in range(len(PLANTED))]
    for result in sent:
        result.get(propagate=False, timeout=30)
    until(lambda: sum(event["type"] == "task-failed" for event in events) == len(sent), what="every failure's event")
    until(lambda: worker.log().count("raised unexpected") == len(sent), what="every failure in the log")
    until(lambda: worker.log().count("given up after attempt") == len(sent), what="every failure given up")
    shown = worker.log() + repr(events)
    assert shown.count("[redacted]") > len(sent) * 2
    assert {secret for secret in PLANTED if secret in shown} == set()


def test_a_wrapped_error_comes_whole_out_of_a_prefork_child_and_the_result_backend(
    worker: WorkerProcess, app: Celery
) -> None:
    result = app.send_task("leaky.wrapped", (0,))
    error = result.get(timeout=30, propagate=False)
    assert isinstance(error, WrappedError)
    context = error.context
    assert (error.category, error.attempt, context.operation) == (ErrorCategory.CONNECTION, 2, "charge")
    assert (context.task, context.task_id, context.circuit) == ("leaky.wrapped", result.id, "payments")
    assert context.worker == "leaky@test"
    assert context.metadata["child"] in {child.pid for child in worker.children()}
    assert context.metadata["text"] == "Error 111 connecting to redis://:[redacted]@cache:6379/0"
    assert str(error.original).endswith("(a description: the leaky.Unpicklable itself stayed behind)")
