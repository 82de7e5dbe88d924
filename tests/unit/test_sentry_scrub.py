"""What leaves for Sentry: no secret, wherever it sits in the payload; nothing that is no error; never the raw event."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors.taxonomy import CircuitOpenError
from signals.redact import HIDDEN
from signals.sinks.sentry import scrub, scrubbed

SECRET = "zorp-1789-quux"
EVENT_ID = "0123456789abcdef0123456789abcdef"


def event(**parts: Any) -> dict[str, Any]:
    return {"event_id": EVENT_ID, "level": "error", **parts}


def frame(**parts: Any) -> dict[str, Any]:
    return {"module": "shop.tasks", "function": "pay", "lineno": 1, "vars": {}, **parts}


def raised(*frames: dict[str, Any]) -> dict[str, Any]:
    return event(exception={"values": [{"type": "ValueError", "value": "no", "stacktrace": {"frames": list(frames)}}]})


CELERY_MESSAGE = json.dumps({"body": "W1sienktMTc4OSJdXQ==", "headers": {"argsrepr": f"('it''s', \"{SECRET}\")"}})

PLACES = {
    "message": event(message=f"password={SECRET}"),
    "exception value": event(exception={"values": [{"type": "E", "value": f"amqp://u:{SECRET}@h//"}]}),
    "frame local by name": raised(frame(vars={"db_password": f"'{SECRET}'"})),
    "frame local, nested": raised(frame(vars={"config": {"x": [{"api_key": f"'{SECRET}'"}]}})),
    "frame local, pairs": raised(frame(vars={"headers": [["b'authorization'", f"b'{SECRET}'"]]})),
    "arguments of a call": raised(frame(vars={"args": [f"'{SECRET}'"], "kwargs": {"x": f"'{SECRET}'"}})),
    "locals of the machinery": raised(frame(module="celery.app.trace", vars={"state": f"'{SECRET}'"})),
    "private key over source lines": raised(
        frame(pre_context=["-----BEGIN PRIVATE KEY-----"], context_line=SECRET, post_context=["", SECRET])
    ),
    "threads": event(threads={"values": [{"stacktrace": {"frames": [frame(vars={"token": SECRET})]}}]}),
    "celery-job": event(extra={"celery-job": {"task_name": "pay", "args": [SECRET], "kwargs": {"word": SECRET}}}),
    "log parameters": event(logentry={"message": "password=%s", "formatted": "password=x", "params": [SECRET]}),
    "log without its text": event(logentry={"message": "password=%s", "params": [SECRET]}),
    "breadcrumbs": event(breadcrumbs={"values": [{"message": "GET /", "data": {"url": f"/?api_key={SECRET}"}}]}),
    "record of a received task": event(breadcrumbs={"values": [{"data": {"args": f"('{SECRET}',)", "kwargs": "{}"}}]}),
    "request": event(
        request={
            "url": f"https://u:{SECRET}@h/",
            "cookies": {"sid": SECRET},
            "headers": {"Cookie": f"sid={SECRET}", "X-Api-Key": SECRET},
            "query_string": [["token", SECRET]],
        }
    ),
    "command line": event(extra={"sys.argv": ["celery", "--password", SECRET, f"--broker=redis://:{SECRET}@h/0"]}),
    "tag": event(tags={"why": f"token: {SECRET}"}),
    "context": event(contexts={"session": {"session_id": SECRET, "csrfToken": SECRET, "auth": SECRET}}),
    "key of a mapping": event(extra={f"api_key={SECRET}": 1}),
    "bytes": event(extra={"sent": f"password={SECRET}".encode()}),
    "object": event(extra={"client": type("C", (), {"__repr__": lambda _: f"C(password='{SECRET}')"})()}),
    "annotations": event(extra={"x": 1}, _meta={"extra": {f"token={SECRET}": {"": {"len": 9}}}}),
    "transaction": {**event(spans=[{"description": f"GET /?api_key={SECRET}"}]), "type": "transaction"},
    "redis span": {**event(spans=[{"description": f"LPUSH b'celery' {CELERY_MESSAGE!r}"}]), "type": "transaction"},
    "log": {"body": f"password={SECRET}", "attributes": {"sentry.message.parameter.0": SECRET}},
    "record in a log": {
        "body": "received",
        "attributes": {"data": repr({"args": f"('{SECRET}', 'x')", "kwargs": "{}"})},
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_gone_wherever_it_sits(place: str) -> None:
    assert SECRET in repr(PLACES[place]), "planted"
    shown = repr(scrub(PLACES[place], {}))
    assert SECRET not in shown
    assert "W1sienkt" not in shown, "the body of a Celery message"


@pytest.mark.parametrize("place", PLACES)
def test_scrubbing_twice_is_scrubbing_once(place: str) -> None:
    once = scrub(PLACES[place], {})
    assert scrub(once, {}) == once


def test_what_is_no_secret_stays_and_the_callers_payload_is_untouched() -> None:
    plain = event(
        message="circuit payments: closed -> open for 60.0 s (5 failures in a row)",
        tags={"circuit": "payments", "epoch": "1"},
        extra={
            "max_tokens": 512,
            "has_password": True,
            "items": [["a", 1.5, None]],
            "celery-job": {"task_name": "pay"},
        },
        contexts={"trace": {"trace_id": "ab" * 16, "op": "queue.task.celery"}},
        modules={"django-token-auth": "1.0"},
        exception={"values": [{"stacktrace": {"frames": [frame(vars={"order": "7", "token": "None"})]}}]},
    )
    before = json.dumps(plain)
    assert scrub(plain, {"exc_info": (ValueError, ValueError(), None)}) == plain
    assert json.dumps(plain) == before


def test_a_log_message_that_came_in_pieces_is_sent_whole() -> None:
    entry = {"message": "order %s of %s", "params": ["7", "ann"]}
    assert scrub(event(logentry=entry), {})["logentry"] == {
        "message": "order %s of %s",
        "formatted": "order 7 of ann",
    }
    assert scrub(event(logentry={"message": "50 % of %s", "params": []}), {})["logentry"] == {"message": "50 % of %s"}
    odd = {"message": "no place", "params": ["7"]}
    assert scrub(event(logentry=odd), {})["logentry"] == {"message": "no place"}


@pytest.mark.parametrize(
    "error", [CircuitOpenError("pay"), Ignore(), Reject(), Retry(), type("Own", (Retry,), {})()], ids=repr
)
def test_what_is_no_error_is_not_sent(error: Exception) -> None:
    assert scrub(event(), {"exc_info": (type(error), error, None)}) is None


@pytest.mark.parametrize("error", [ValueError(), type("Retry", (Exception,), {})(), None])
def test_what_is_an_error_is_sent(error: Exception | None) -> None:
    assert scrub(event(_meta={}), {"exc_info": (type(error), error, None)}) == event()


def test_a_log_line_of_an_event_that_has_its_own_exit_is_not_sent() -> None:
    assert scrub(event(logger="celeriac", extra={"celeriac_event": "task-abandoned"}), {}) is None
    assert scrub(event(logger="celeriac"), {}) is not None, "trouble of the middleware's own is sent"


def _endless() -> dict[str, Any]:
    loop: dict[str, Any] = event()
    loop["extra"] = {str(number): loop for number in range(10)}
    return loop


class _Broken:
    def __repr__(self) -> str:
        raise RuntimeError(f"password={SECRET}")


@pytest.mark.parametrize(
    "make",
    [
        _endless,
        lambda: event(extra={"x": _Broken()}, message=f"secret {SECRET}"),
        lambda: event(extra=[SECRET] * 400_000),
        lambda: {**event(message=SECRET, extra={"x": _Broken()}), "event_id": f"id {SECRET}"},
    ],
    ids=["endless", "broken repr", "enormous", "no id"],
)
def test_an_event_that_cannot_be_redacted_is_replaced_by_one_that_says_so(make: Callable[[], dict[str, Any]]) -> None:
    sent = scrub(make(), {})
    assert "An event was withheld: its secrets could not be removed" in sent["message"]
    assert sent["fingerprint"] == ["celeriac", "withheld"]
    assert len(sent["event_id"]) == len(EVENT_ID)
    assert SECRET not in repr(sent)


@pytest.mark.parametrize(
    "payload", [None, 7, [SECRET], {"body": _Broken()}, {**event(spans=[_Broken()]), "type": "transaction"}]
)
def test_what_cannot_be_redacted_and_is_no_event_is_dropped(payload: Any) -> None:
    assert scrub(payload, None) is None


def test_what_is_too_deep_is_cut_off() -> None:
    deep: Any = SECRET
    for _ in range(200):
        deep = [deep]
    assert "too deep" in repr(scrub(event(extra={"x": deep}), {}))
    assert SECRET not in repr(scrub(event(extra={"x": deep}), {}))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(f"api_key={SECRET}"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["extra", "message", "logentry", "exception", "breadcrumbs", "request", "tags", "_meta"])
        | st.text(max_size=8),
        _JSON,
    ),
    _JSON,
)
def test_whatever_the_payload_it_never_raises_and_leaks_nothing(payload: dict[str, Any], hint: Any) -> None:
    assert SECRET not in repr(scrub({**payload, "event_id": EVENT_ID}, hint))


def test_a_hook_of_the_users_runs_first_and_what_it_adds_is_redacted() -> None:
    def own(sent: dict[str, Any], hint: Any) -> dict[str, Any] | None:
        return None if hint else {**sent, "extra": {"added": f"password={SECRET}"}}

    hook = scrubbed(own)
    assert hook(event(), None)["extra"] == {"added": f"password={HIDDEN}"}  # type: ignore[index]
    assert hook(event(), {"x": 1}) is None, "the user's hook dropped it"
    assert scrubbed(hook) is hook
    assert scrubbed(scrub) is scrub
    assert scrubbed()(event(), {}) == event()
