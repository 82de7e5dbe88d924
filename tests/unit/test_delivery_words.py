"""What the transport packs and reads by itself, to be quick, is what redis-py and kombu would have made of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import kombu
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.asynchronous import Hub
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from resilience.delivery.envelope import OwnedMessage, read
from resilience.delivery.lines import Packed, Wake
from resilience.delivery.poller import OwnedPoller

WORDS = st.lists(st.one_of(st.text(st.characters(exclude_categories=("Cs",))), st.binary(), st.integers()))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.uuids(), st.datetimes(), st.binary(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=9,
)


@given(WORDS, WORDS)
def test_a_command_is_packed_as_redis_py_packs_it(first: list[Any], more: list[Any]) -> None:
    expected = b"".join(redis.Connection().pack_command("EVALSHA", *first, *more))
    assert Packed("EVALSHA", *first).with_words(*more) == expected


@given(VALUES)
def test_a_message_is_read_as_kombu_reads_it(value: Any) -> None:
    raw = dumps({"headers": value}).encode()
    assert read(raw) == loads(raw.decode())


@pytest.mark.parametrize("marker", ["__type__", "\\u005f_type__", "_\\u005Ftype__"])
def test_a_value_of_a_type_that_json_lacks_is_found_however_it_is_written(marker: str) -> None:
    raw = '{"eta": {"MARKER": "datetime", "__value__": "2030-01-01T00:00:00+00:00"}}'.replace("MARKER", marker)
    assert read(raw.encode()) == {"eta": datetime(2030, 1, 1, tzinfo=timezone.utc)}


class Channel:
    """Stands where kombu's poller wants a channel: it only keeps it."""


def test_the_loop_is_told_of_a_connection_once_and_again_when_it_is_another_or_was_forgotten() -> None:
    hub, poller, channel, line = Hub(), OwnedPoller(), Channel(), Wake()
    other = Wake()
    try:
        poller.on_poll_init(hub.poller)
        poller.join(hub)
        poller.attach(channel, line)
        fileno = line.connection._sock.fileno()
        assert list(poller.fds) == [fileno]
        hub.add_reader(fileno, print)
        poller.attach(channel, line)
        assert list(poller.fds) == []
        hub.remove_reader(fileno)
        assert list(poller.fds) == [fileno]
        hub.add_reader(fileno, print)
        line._sock, other._sock = other._sock, line._sock  # it connected anew
        poller.attach(channel, line)
        assert list(poller.fds) == [line._sock.fileno()]
    finally:
        hub.close()
        line.close()
        other.close()


def test_a_loop_that_was_asked_to_come_round_does_so_in_time_once_and_not_before() -> None:
    hub, poller = Hub(), OwnedPoller()
    ours, theirs = socket.socketpair()
    rounds: list[float] = []
    try:
        assert not poller.come_round_at(time.monotonic()), "without a loop nobody would come round"
        poller.join(hub)
        hub.call_later(60.0, print)
        hub.on_tick.add(lambda: rounds.append(time.monotonic()))
        due_s = time.monotonic() + 0.05
        for later_s in (-0.03, -0.02, 0.0):
            assert poller.come_round_at(due_s + later_s)
        assert len(hub.timer) == 2, "one timer serves them all"
        hub.add_reader(ours.fileno(), print)
        while not rounds or rounds[-1] < due_s:
            next(hub.loop)
        assert len(hub.timer) == 1
        assert len(rounds) <= 4, f"rounds at {[each - due_s for each in rounds]}"
    finally:
        hub.close()
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    "odd",
    [
        {"content-encoding": ["utf-8"]},
        {"content-encoding": "latin-1"},
        {"content-type": "application/x-python-serialize"},
        {"body": "{"},
        {"body": ""},
        {},
    ],
)
def test_a_body_is_decoded_or_refused_as_kombu_does_it(odd: dict[str, Any]) -> None:
    told = {"body": '[1, {"a": "é"}]', "content-type": "application/json", "content-encoding": "utf-8"}
    payload = {**told, "properties": {"delivery_tag": "1"}, **odd}
    channel = kombu.Connection("memory://").channel()
    ours, kombus = (
        kind(payload, channel=channel, accept={"application/json"}) for kind in (OwnedMessage, virtual.Message)
    )
    assert _outcome(ours.decode) == _outcome(kombus.decode)


def _outcome(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except Exception as error:  # noqa: BLE001  whatever it is, it must be the same
        return type(error), str(error)
