"""When a message is due: read as Celery reads it, and what is odd is left to Celery."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from resilience.delivery.eta import LONGEST_ID, SOON_S, Appointment, appointment, is_due, moment

NOW_S = 1_700_000_000.0
EST = timezone(timedelta(hours=-5))


def iso(offset_s: float, zone: timezone | None = timezone.utc) -> str:
    when = datetime.fromtimestamp(NOW_S + offset_s, timezone.utc)
    return (when.replace(tzinfo=None) if zone is None else when.astimezone(zone)).isoformat()


@pytest.mark.parametrize("zone", [timezone.utc, EST, None])
def test_an_eta_is_an_absolute_moment_and_one_without_a_zone_is_utc(zone: timezone | None) -> None:
    assert appointment({"id": "a", "eta": iso(60, zone)}, NOW_S) == Appointment("a", NOW_S + 60)


def test_the_label_is_what_the_script_reads() -> None:
    assert Appointment("a:b", 1.2345).label == "1234:a:b"


def test_a_date_of_a_pickled_message_counts_too() -> None:
    assert moment(datetime.fromtimestamp(NOW_S, EST)) == NOW_S


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"eta": None},
        {"eta": iso(-1)},
        {"eta": iso(SOON_S / 2)},
        {"eta": "tomorrow"},
        {"eta": 12},
        {"eta": iso(60), "id": None},
        {"eta": iso(60), "id": ""},
        {"eta": iso(60), "id": "half a character \ud800"},
        {"eta": iso(60), "id": "x" * (LONGEST_ID + 1)},
        {"eta": iso(60), "expires": iso(-1)},
        {"eta": iso(60), "expires": "never"},
    ],
)
def test_what_may_run_now_or_is_odd_has_no_appointment(fields: dict[str, Any]) -> None:
    assert appointment({"id": "a", **fields}, NOW_S) is None


def test_a_task_that_will_expire_before_it_is_due_still_waits_for_celery_to_discard_it_then() -> None:
    assert appointment({"id": "a", "eta": iso(60), "expires": iso(30)}, NOW_S) is not None


@pytest.mark.parametrize(
    ("eta", "due"), [(None, True), (iso(-1), True), (iso(0.01), True), (iso(1), False), ("soon", False)]
)
def test_only_what_would_run_at_once_is_due(eta: str | None, due: bool) -> None:
    assert is_due({"eta": eta}, NOW_S) is due
