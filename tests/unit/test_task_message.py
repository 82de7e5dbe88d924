"""What Celery can take of a task message, what it would stumble over; and when arguments do not fit."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest

from resilience.quarantine.reading import read, shown
from resilience.quarantine.task_message import fault_of
from resilience.quarantine.verdict import misfit

SOUND: dict[str, Any] = {"id": "a", "retries": 0, "timelimit": [None, 5.5], "group": None, "stamps": {}}
EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CALL = {"task": "t", "args": [], "kwargs": {}, "options": {}}


def test_a_sound_message_has_no_fault() -> None:
    assert fault_of(SOUND, [1], {"a": 1}, EMBED) == ""
    assert fault_of({"id": "a"}, (), {}, {"chain": [CALL], "chord": CALL, "errbacks": []}) == ""


@pytest.mark.parametrize(
    ("told", "call", "said"),
    [
        ({"id": None}, {}, "id"),
        ({"id": ""}, {}, "id"),
        ({"id": "half a character \ud800"}, {}, "id"),
        ({"retries": True}, {}, "retries"),
        ({"retries": "1"}, {}, "retries"),
        ({"timelimit": 5}, {}, "timelimit"),
        ({"timelimit": [1]}, {}, "timelimit"),
        ({"timelimit": [-1, None]}, {}, "timelimit"),
        ({"timelimit": [float("nan"), None]}, {}, "timelimit"),
        ({"group_index": "1"}, {}, "group_index"),
        ({"stamps": []}, {}, "stamps"),
        ({}, {"args": "abc"}, "arguments"),
        ({}, {"kwargs": []}, "keyword"),
        ({}, {"kwargs": {1: 2}}, "keyword"),
        ({}, {"embed": None}, "other tasks"),
        ({}, {"embed": {"chain": [1]}}, "chain"),
        ({}, {"embed": {"errbacks": "x"}}, "errbacks"),
        ({}, {"embed": {"chord": {"task": 1}}}, "chord"),
        ({}, {"embed": {"callbacks": [{**CALL, "args": "x"}]}}, "callbacks"),
    ],
)
def test_what_celery_would_stumble_over_is_named(told: dict[str, Any], call: dict[str, Any], said: str) -> None:
    whole = {"args": [], "kwargs": {}, "embed": EMBED, **call}
    assert said in fault_of({**SOUND, **told}, whole["args"], whole["kwargs"], whole["embed"])


def _raised(run: Any, *args: Any, **kwargs: Any) -> BaseException:
    with pytest.raises(TypeError) as caught:
        run(*args, **kwargs)
    return caught.value


def _judged(run: Any, *args: Any, original: Any = None, **kwargs: Any) -> str:
    task = SimpleNamespace(name="t", run=run, **({"_orig_run": original} if original else {}))
    return misfit(task, args, kwargs, _raised(run, *args, **kwargs))


def plain(number: Any) -> int:
    return len(number)


def test_arguments_that_do_not_fit_are_told_from_a_type_error_of_the_body() -> None:
    assert "missing a required argument" in _judged(plain)
    assert "too many positional" in _judged(plain, 1, 2)
    assert _judged(plain, 5) == ""


def test_a_body_that_calls_itself_wrongly_is_the_bodys_error_also_when_its_wrapper_takes_everything() -> None:
    @functools.wraps(plain)
    def injecting(*args: Any) -> int:
        return plain("given", *args)

    assert _judged(injecting, 1) == "", "the wrapper was called rightly, whatever it did then"


def test_beneath_the_wrapper_of_autoretry_the_tasks_own_signature_counts() -> None:
    @functools.wraps(plain)
    def retrying(*args: Any, **kwargs: Any) -> int:
        return plain(*args, **kwargs)

    assert "too many positional" in _judged(retrying, 1, 2, original=plain)


def test_another_error_is_never_about_arguments() -> None:
    assert misfit(SimpleNamespace(name="t", run=plain), (1, 2), {}, ValueError("x")) == ""


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"42", b"null", b"[" * 200_000, b'{"properties": 1}'])
def test_reading_hostile_bytes_tells_nothing_and_never_raises(raw: bytes) -> None:
    assert read(raw).envelope is None
    shown(raw)
