"""Event types: one stable kind each, frozen, JSON-ready; and the log line that each becomes."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest

from signals import events
from signals.events import (
    CircuitChanged,
    ClaimsTakenOver,
    Event,
    MessageQuarantined,
    ParkedReleased,
    PolicyConflict,
    QuarantineDiscarded,
    QuarantineDropped,
    QuarantineReplayed,
    RecoveryEnded,
    RecoveryStarted,
    Result,
    RetryDecided,
    StoreAway,
    StoreBack,
    TaskAbandoned,
    TaskRerouted,
    WorkerBackInRotation,
    WorkerDied,
    WorkerOutOfRotation,
    WorkerRecovered,
    WorkerStalled,
    WorkerUnhealthy,
)
from signals.sinks.log import log_sink

_SAMPLES: list[tuple[Event, int, str]] = [
    (
        CircuitChanged("openai", "closed", "open", 2, "5 failures in a row", 60.0),
        logging.WARNING, "circuit openai: closed -> open for 60.0 s (5 failures in a row)",
    ),
    (
        CircuitChanged("openai", "half_open", "closed", 4, "3 probes passed"),
        logging.WARNING, "circuit openai: half_open -> closed (3 probes passed)",
    ),
    (
        PolicyConflict("openai", "open_ms 60000 and 30000"),
        logging.WARNING, "circuit openai is used with two policies, the newer wins: open_ms 60000 and 30000",
    ),
    (
        StoreAway("TimeoutError: slow"),
        logging.ERROR, "breaker store away (TimeoutError: slow): each process now counts for itself",
    ),
    (StoreBack(2.04), logging.WARNING, "breaker store back after 2.0 s: the shared state counts again"),
    (
        TaskRerouted("id1", "shop.charge", "celery", "fallback", "circuit a open", 1),
        logging.INFO, "task shop.charge[id1] moved from celery to fallback (circuit a open)",
    ),
    (
        RetryDecided("id1", "shop.charge", 4, "connection_error", 8.0, "critical"),
        logging.WARNING, "task shop.charge[id1] attempt 4: connection_error, critical, again in 8.00 s",
    ),
    (
        RetryDecided("id1", "shop.charge", 2, "timeout_error", 1.066),
        logging.INFO, "task shop.charge[id1] attempt 2: timeout_error, again in 1.07 s",
    ),
    (
        TaskAbandoned("id1", "shop.charge", 4, "server_error", "major", "HTTPError: 503"),
        logging.ERROR, "task shop.charge[id1] given up after attempt 4: server_error: HTTPError: 503",
    ),
    (
        WorkerDied("host:7:ab", 12, "host:8:cd"),
        logging.WARNING, "worker host:7:ab died: 12 messages back on their queues (by host:8:cd)",
    ),
    (
        MessageQuarantined("17", "id1", "shop.charge", "exhausted", "its 3 retries are spent", "celery"),
        logging.WARNING, "task shop.charge[id1] of celery is in quarantine as 17: exhausted: its 3 retries are spent",
    ),
    (
        QuarantineDropped("17", "", "", "undecodable", "older than 60 s", 12),
        logging.WARNING, "a message is dropped from the quarantine, it was 17 (undecodable): older than 60 s",
    ),
    (
        QuarantineReplayed("17", "id1", "shop.charge", "exhausted", "celery", "ada", "repaired"),
        logging.INFO, "task shop.charge[id1] went from the quarantine, 17, to celery (by ada: repaired)",
    ),
    (
        QuarantineDiscarded("17", "id1", "shop.charge", "exhausted", "ada", "a test order"),
        logging.WARNING,
        "task shop.charge[id1] was discarded from the quarantine, 17 (exhausted), by ada: a test order",
    ),
    (
        ParkedReleased("openai", "celery", 12, "ada", "repaired"),
        logging.WARNING, "12 parked tasks of circuit openai went to celery (by ada: repaired)",
    ),
    (
        ClaimsTakenOver("host:7:ab", 2, 5),
        logging.WARNING, "worker host:7:ab was taken for dead: 2 of its tasks ran twice, 5 it did not begin",
    ),
    (
        WorkerStalled("host:7:ab", 12, 15.0),
        logging.ERROR,
        "worker host:7:ab has free slots and received nothing for 15 s, 12 messages wait: it connects anew",
    ),
    (
        WorkerOutOfRotation("host:7:ab", "the database does not answer"),
        logging.ERROR, "worker host:7:ab is out of rotation, it takes no tasks: the database does not answer",
    ),
    (WorkerBackInRotation("host:7:ab", 3.24), logging.WARNING, "worker host:7:ab is back in rotation after 3.2 s"),
    (
        RecoveryStarted("free:1", "free_resources", "resource_error", "critical", "id1", "shop.charge", "", "pay", 5.0,
                        "resource_error: no memory"),
        logging.WARNING, "recovery free_resources began, for 5 s at most (resource_error: no memory)",
    ),
    (
        RecoveryEnded("worker:h:7:ab", "reconnect", "connection_error", "id1", "shop.charge", "h:7:ab", True, 0.5),
        logging.WARNING, "recovery reconnect of worker h:7:ab succeeded after 0.50 s",
    ),
    (WorkerRecovered("h:7:ab", 12.34), logging.WARNING, "worker h:7:ab is well again after 12.3 s, it works as usual"),
    (WorkerUnhealthy("host:7:ab", 2), logging.WARNING, "worker host:7:ab missed 2 health checks"),
]  # fmt: skip


def _all_types() -> list[type[Event]]:
    return [
        cls for cls in vars(events).values() if isinstance(cls, type) and issubclass(cls, Event) and cls is not Event
    ]


def test_every_event_type_has_a_sample_here() -> None:
    assert {type(event) for event, _, _ in _SAMPLES} == set(_all_types())


def test_kinds_are_distinct_and_never_look_like_celerys_own_task_events() -> None:
    kinds = [cls.kind for cls in _all_types()]
    assert len(set(kinds)) == len(kinds)
    assert all(kind == kind.lower() and kind != "event" for kind in kinds)


@pytest.mark.parametrize("event", [event for event, _, _ in _SAMPLES], ids=lambda event: event.kind)
def test_an_event_is_frozen_and_json_ready(event: Event) -> None:
    assert json.loads(json.dumps(event.fields())) == event.fields()
    name = dataclasses.fields(event)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, "other")


@pytest.mark.parametrize(("event", "level", "line"), _SAMPLES, ids=lambda value: getattr(value, "kind", None))
def test_an_event_becomes_one_log_line(event: Event, level: int, line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "celeriac"):
        log_sink(event)
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (level, line)
    assert record.__dict__["celeriac_event"] == event.kind


def test_an_event_of_a_users_own_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    @dataclasses.dataclass(frozen=True)
    class Deployed(Event):
        version: str

    with caplog.at_level(logging.INFO, "celeriac"):
        log_sink(Deployed("1.2"))
    assert caplog.messages == ["event {'version': '1.2'}"]


def test_a_result_is_its_own_name() -> None:
    assert [result.value for result in Result] == ["success", "failure", "limited", "nothing"]
