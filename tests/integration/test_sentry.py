"""Sentry, over its SDK's own transport: one event per opened circuit, none per retry, and no secret in any byte."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.integration.sentry_sink import SentrySink

WATCHED = Path(__file__).parent.parent / "foreign" / "watched"

PLANTED = {
    "exception_message": "sk-proj-MessageKey0123456789",
    "password_in_url": "opaque-url-password",
    "cause_of_the_exception": "opaque-bearer-of-the-cause",
    "headers_in_a_local_variable": "opaque-header-value",
    "bearer_in_a_local_variable": "opaque-bearer-in-text",
    "nested_local_variable": "opaque-nested-password",
    "local_variable_by_its_name": "opaque-local-password",
    "private_key": "MIIEopaqueKeyBody0123456789",
    "request": "opaque-request-key",
    "breadcrumb": "opaque-breadcrumb-key",
    "log_parameter": "opaque-log-parameter",
    "captured_message": "opaque-message-token",
    "scope": "opaque-scope-key",
    "object_on_the_scope": "opaque-repr-password",
    "span": "opaque-span-key",
    "source_line": "opaque-source-literal",
    "published_argument": "opaque-published-argument",
    "task_argument": "opaque-task-argument",
    "own_hook": "opaque-hook-password",
}
SCRUBBED: dict[str, str] = {}
UNSCRUBBED = {"RESILIENCE_SENTRY_ENABLED": "false"}


@pytest.fixture
def sentry() -> Iterator[SentrySink]:
    with SentrySink() as sink:
        yield sink


def watched(sentry: SentrySink, redis_url: str, log_dir: Path, env: dict[str, str]) -> WorkerProcess:
    env = {"SHOP_REDIS": redis_url, "DSN": sentry.dsn, "NO_PROXY": "127.0.0.1", **env}
    return WorkerProcess(WATCHED, "watched", log_dir, env=env)


def publisher(redis_url: str) -> Celery:
    return Celery("stock", broker=f"{redis_url}/0", backend=f"{redis_url}/1", set_as_current=False)


# -- events ------------------------------------------------------------------------------------------------------------


def six_failures(sentry: SentrySink, redis_url: str, log_dir: Path, env: dict[str, str]) -> int:
    """Six tasks whose dependency is down, in a worker that is stopped afterwards; how many of them failed."""
    app = publisher(redis_url)
    with watched(sentry, redis_url, log_dir, env) as worker:
        sent = [app.send_task("tasks.charge", (order,)) for order in range(6)]
        until(lambda: "closed -> open" in worker.log(), what="the circuit opened")
        until(lambda: sum(result.failed() for result in sent) >= 5, what="those that ran failed")
    return sum(result.failed() for result in sent)


def test_six_failing_tasks_are_one_event_of_the_circuit_beside_their_own(
    sentry: SentrySink, shop_redis: str, tmp_path: Path
) -> None:
    failed = six_failures(sentry, shop_redis, tmp_path, SCRUBBED)
    (opening,) = sentry.openings()
    assert opening["fingerprint"] == ["celeriac", "circuit-open", "payments"]
    assert opening["level"] == "error"
    assert opening["tags"]["circuit"] == "payments"
    assert int(opening["tags"]["epoch"]) >= 1
    assert "5 failures" in opening["tags"]["reason"]
    assert "circuit payments: closed -> open for 6" in opening["message"]
    assert opening["contexts"]["circuit"]["new"] == "open"
    assert "celery-job" not in opening.get("extra", {}), "the task that tripped it has an event of its own"
    assert opening["tags"]["team"] == "payments", "the project's own hook still runs"
    ours = [event for event in sentry.events() if (event.get("fingerprint") or [""])[0] == "celeriac"]
    assert {event["fingerprint"][1] for event in ours} <= {"circuit-open", "quarantine"}
    others = [event for event in sentry.events() if event not in ours]
    assert [event["exception"]["values"][-1]["type"] for event in others] == ["ConnectionResetError"] * failed


def test_switched_off_it_sends_no_opening_and_leaves_the_log_lines_to_sentry(
    sentry: SentrySink, shop_redis: str, tmp_path: Path
) -> None:
    failed = six_failures(sentry, shop_redis, tmp_path, UNSCRUBBED)
    assert sentry.openings() == []
    from_log = [event for event in sentry.events() if event.get("logger") == "celeriac"]
    assert len(from_log) == failed, "the second event per failed task that the guard keeps away"


def test_a_retry_is_no_event(sentry: SentrySink, shop_redis: str, tmp_path: Path) -> None:
    with watched(sentry, shop_redis, tmp_path, SCRUBBED):
        assert publisher(shop_redis).send_task("tasks.flaky", (2,)).get(timeout=30) == 3
    assert sentry.events() == []
    assert sentry.items("transaction"), "the wire works"


ENDS_AT_ONCE = """
import sentry_sdk
from signals.events import CircuitChanged
from signals.sinks.sentry import sentry_sink
sentry_sdk.init(dsn={dsn!r})
sink = sentry_sink()
sink(CircuitChanged("pay", "closed", "half_open", 1, "why"))
sink(CircuitChanged("pay", "half_open", "closed", 2, "why"))
sink(CircuitChanged("pay", "closed", "forced_open", 3, "by ann: password=opaque-reason " + "x" * 300))
"""


def test_an_opening_by_an_operator_is_told_though_the_process_ends_at_once(sentry: SentrySink) -> None:
    script = [sys.executable, "-c", ENDS_AT_ONCE.format(dsn=sentry.dsn)]
    subprocess.run(script, check=True, timeout=30, env={"NO_PROXY": "127.0.0.1"})
    (event,) = sentry.events()
    assert event["level"] == "warning"
    assert (len(event["tags"]["reason"]), "opaque-reason" in json.dumps(event)) == (200, False)


QUARANTINED = """
import sys
import sentry_sdk
from signals.events import MessageQuarantined
from signals.sinks.sentry import sentry_sink

sentry_sdk.init(dsn=sys.argv[1])
sink = sentry_sink()
for number in (1, 2):
    sink(MessageQuarantined(str(number), f"id{number}", "shop.charge", "exhausted", "password=hunter2", "celery"))
"""


def test_quarantined_messages_of_one_task_and_reason_are_one_issue_without_secrets(sentry: SentrySink) -> None:
    argv = [sys.executable, "-c", QUARANTINED, sentry.dsn]
    subprocess.run(argv, check=True, timeout=60, env={**os.environ, "NO_PROXY": "127.0.0.1"})
    first, second = sentry.events()
    assert first["fingerprint"] == second["fingerprint"] == ["celeriac", "quarantine", "shop.charge", "exhausted"]
    assert {event["contexts"]["quarantine"]["task_id"] for event in (first, second)} == {"id1", "id2"}
    assert b"hunter2" not in sentry.everything()


MADE_TWICE = """
import sentry_sdk
from signals.sinks.sentry import sentry_sink
sentry_sink()
for text in ("first", "second"):
    sentry_sdk.init(dsn={dsn!r})
    sentry_sdk.capture_message(text + ": password=opaque")
"""


def test_a_client_made_after_the_sink_is_guarded_in_a_process_without_tasks(sentry: SentrySink) -> None:
    script = [sys.executable, "-c", MADE_TWICE.format(dsn=sentry.dsn)]
    subprocess.run(script, check=True, timeout=30, env={"NO_PROXY": "127.0.0.1"})
    until(lambda: len(sentry.events()) == 2)
    assert sorted(event["message"] for event in sentry.events()) == [
        "first: password=[redacted]",
        "second: password=[redacted]",
    ]


LATE = """
import logging, os
from celery import Celery
from celery.signals import worker_process_init
from resilience import Resilience
redis = os.environ["SHOP_REDIS"]
app = Celery("late", broker=f"{redis}/0", backend=f"{redis}/1")
Resilience(app)
app.conf.update(task_send_sent_event=False)
assert app.conf.task_acks_late, "configured before Sentry is there"

@worker_process_init.connect
def begin(**_):
    import sentry_sdk
    sentry_sdk.init(dsn=os.environ["DSN"], enable_logs=True)

@app.task(circuit=False)
def first():
    logging.getLogger("late").warning("password=%s", "opaque-in-a-log")
    import sentry_sdk
    sentry_sdk.capture_message("password=opaque-in-a-message")
"""


def test_a_client_made_after_everything_else_is_guarded_before_its_first_log_line(
    sentry: SentrySink, shop_redis: str, tmp_path: Path
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    env = {"SHOP_REDIS": shop_redis, "DSN": sentry.dsn, "NO_PROXY": "127.0.0.1"}
    with WorkerProcess(tmp_path, "late", tmp_path, app="late", env=env):
        publisher(shop_redis).send_task("late.first").get(timeout=20)
    assert [event["message"] for event in sentry.events()] == ["password=[redacted]"]
    assert b"password=[redacted]" in json.dumps(sentry.items("log")).encode()
    assert b"opaque-in-a" not in sentry.everything()


BARE = """
import sys
from celery import Celery
from resilience import Resilience
from signals.events import CircuitChanged
app = Celery("bare", broker="memory://")
Resilience(app).bus.publish(CircuitChanged("pay", "closed", "open", 1, "why"))
assert app.conf.task_acks_late, "configured"
assert app.resilience.settings.sentry_enabled
assert "sentry_sdk" not in sys.modules
"""


def test_a_process_that_does_not_use_sentry_never_imports_it() -> None:
    subprocess.run([sys.executable, "-c", BARE], check=True, timeout=30)


# -- secrets -----------------------------------------------------------------------------------------------------------


def report(server: RedisServer, log_dir: Path, env: dict[str, str]) -> bytes:
    """All that Sentry receives from a worker that has every planted secret in its hands."""
    url = f"redis://127.0.0.1:{server.port}"
    with redis.Redis(port=server.port) as client:
        client.flushall()
    app = publisher(url)
    with SentrySink() as sentry:
        with watched(sentry, url, log_dir, {"PLANTED": json.dumps(PLANTED), **env}):
            places = [place for place in PLANTED if place not in ("task_argument", "own_hook")]
            sent = [app.send_task("tasks.leak", (place,)) for place in places]
            sent.append(app.send_task("tasks.log_in", ("ann", PLANTED["task_argument"])))
            until(lambda: all(result.ready() for result in sent), what="every place was visited")
        assert len(sentry.events()) >= len(PLANTED) - 3
        assert sentry.items("transaction")
        assert sentry.items("log")
        return sentry.everything()


@pytest.fixture(scope="module")
def scrubbed(shop_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return report(shop_server, tmp_path_factory.mktemp("scrubbed"), SCRUBBED)


@pytest.fixture(scope="module")
def unscrubbed(shop_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return report(shop_server, tmp_path_factory.mktemp("unscrubbed"), UNSCRUBBED)


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_secret_is_in_no_byte_that_leaves(scrubbed: bytes, place: str) -> None:
    assert PLANTED[place].encode() not in scrubbed


@pytest.mark.parametrize("place", PLANTED)
def test_the_same_secret_leaves_without_the_scrubbing(unscrubbed: bytes, place: str) -> None:
    assert PLANTED[place].encode() in unscrubbed


def test_the_body_of_a_published_message_leaves_in_base64_only_without_the_scrubbing(
    scrubbed: bytes, unscrubbed: bytes
) -> None:
    head = f'[["ann", "{PLANTED["published_argument"]}"'.encode()
    body = base64.b64encode(head[: len(head) // 3 * 3])
    assert (body in scrubbed, body in unscrubbed) == (False, True)


def test_what_is_no_secret_still_arrives(scrubbed: bytes) -> None:
    for text in (b"could not pay", b"db.example", b"page=2", b"refused: password=", b"ann is unknown", b"1 databases"):
        assert text in scrubbed
