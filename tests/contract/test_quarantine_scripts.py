"""The quarantine's scripts on a real Redis: once, whole, within its limits, and nothing vanishes untold."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.quarantine.desk import Quarantine
from resilience.quarantine.record import Arrival, Reason
from resilience.testing import RecordingSink, until
from signals.events import Event, MessageQuarantined, QuarantineDiscarded, QuarantineDropped, QuarantineReplayed

BY = {"actor": "ada", "reason": "a test"}


class Ward:
    """One app's quarantine, what it told, and its Redis."""

    def __init__(self, url: str, **settings: object) -> None:
        self.app = Celery("ward", broker=url, set_as_current=False)
        self.app.conf.update({f"resilience_{name}": value for name, value in settings.items()})
        resilience = Resilience(self.app)
        self.told = RecordingSink()
        resilience.bus.subscribe(self.told)
        self.desk: Quarantine = resilience.quarantine
        self.redis = redis.Redis.from_url(url)

    def put(self, number: int, size: int = 0, **headers: object) -> str:
        return self.desk.put(Arrival(raw(number, size, **headers), Reason.EXHAUSTED, "spent", "celery"))

    def close(self) -> None:
        self.desk.close()
        self.redis.close()
        self.app.close()


def raw(number: int, size: int = 0, **headers: object) -> bytes:
    told = {"task": "shop.charge", "id": f"id{number}", "retries": 2, "celeriac-deaths": 1, **headers}
    address = {"exchange": "", "routing_key": "celery"}
    properties = {"delivery_tag": f"tag{number}", "priority": 0, "delivery_info": address}
    return json.dumps({"body": "x" * size, "headers": told, "properties": properties}).encode()


@pytest.fixture
def ward(redis_url: str) -> Iterator[Ward]:
    ward = Ward(redis_url, quarantine_max=3, quarantine_max_bytes=5000, quarantine_replays=2)
    yield ward
    ward.close()


def test_a_message_that_is_put_twice_is_there_once_also_after_a_redelivery(ward: Ward) -> None:
    first = ward.put(1)
    assert ward.put(1, redelivered=True) == first
    assert ward.desk.put_raw("celery", b"\xff", "undecodable", "no text", "owner:7") == "2"
    assert ward.desk.put_raw("celery", b"\xff", "undecodable", "no text", "owner:7") == "2"
    assert ward.desk.put_raw("celery", b"\xff", "undecodable", "no text", "owner:8") == "3"
    assert ward.desk.count()["messages"] == 3
    assert len(ward.told.of(MessageQuarantined)) == 3


def test_the_exact_bytes_are_kept(ward: Ward) -> None:
    odd = bytes(range(256))
    record = ward.desk.show(ward.desk.put_raw("celery\x06\x163", odd, "undecodable", "odd", "k"))
    assert record is not None
    assert (record.raw, record.queue, record.size_bytes) == (odd, "celery", 256)


def test_what_a_limit_drops_is_told_before_it_is_gone(ward: Ward) -> None:
    there: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, QuarantineDropped):
            there.append(ward.desk.show(event.id) is not None)

    ward.app.resilience.bus.subscribe(look)
    for number in range(5):
        ward.put(number)
    assert [record.task_id for record in ward.desk.list()] == ["id4", "id3", "id2"]
    assert [event.task_id for event in ward.told.of(QuarantineDropped)] == ["id0", "id1"]
    assert there == [True, True]


def test_bytes_are_limited_and_the_newest_stays_however_large_it_is(ward: Ward) -> None:
    ward.put(1)
    ward.put(2, size=9000)
    assert [record.task_id for record in ward.desk.list()] == ["id2"]
    ward.put(3)
    assert [record.task_id for record in ward.desk.list()] == ["id3"]
    assert ward.desk.count()["bytes"] == len(raw(3))


def test_what_is_too_old_is_dropped_by_upkeep_too(redis_url: str) -> None:
    ward = Ward(redis_url, quarantine_age_s=0.001)
    ward.put(1)
    ward.put(2)
    until(lambda: ward.desk.tend() == 0 and ward.desk.count()["messages"] == 0, what="both are dropped")
    assert {event.task_id for event in ward.told.of(QuarantineDropped)} == {"id1", "id2"}
    ward.close()
    ward.close()


def test_a_replay_begins_anew_at_the_end_of_its_queue_and_counts(ward: Ward) -> None:
    ward.redis.lpush("celery", "waiting")
    record_id = ward.put(1)
    assert ward.desk.replay([record_id], **BY).moved == [record_id]
    newest, oldest = ward.redis.lrange("celery", 0, -1)
    assert oldest == b"waiting"
    message = json.loads(newest)
    assert message["headers"] == {"task": "shop.charge", "id": "id1", "retries": 0, "celeriac-replays": 1}
    assert message["properties"]["delivery_tag"] != "tag1"
    assert ward.desk.count()["messages"] == 0
    (event,) = ward.told.of(QuarantineReplayed)
    assert (event.queue, event.actor, event.why) == ("celery", "ada", "a test")


def test_a_message_goes_home_or_where_it_is_told_to_go(ward: Ward) -> None:
    journey = {"home": "orders", "level": 1, "spent": 0, "hops": [["orders", "fallback", "open", 1]], "hop_count": 1}
    first, second = ward.put(1, celeriac=journey), ward.put(2, celeriac=journey)
    ward.desk.replay([first], **BY)
    ward.desk.replay([second], to="elsewhere", **BY)
    assert (ward.redis.llen("orders"), ward.redis.llen("elsewhere")) == (1, 1)
    assert "celeriac" not in json.loads(ward.redis.lindex("orders", 0))["headers"]


def test_the_cap_an_expiry_and_bytes_that_are_no_message_need_force(ward: Ward) -> None:
    capped = ward.put(1, **{"celeriac-replays": 2})
    expired = ward.put(2, expires="2020-01-01T00:00:00+00:00")
    unread = ward.desk.put_raw("celery", b"\xff", "undecodable", "no text", "k")
    stayed = ward.desk.replay([capped, expired, unread, "999"], **BY).stayed
    assert {number: why.split()[1] for number, why in stayed.items()} == {
        capped: "was", expired: "expired", unread: "is", "999": "is",
    }  # fmt: skip
    assert ward.redis.llen("celery") == 0
    assert ward.desk.replay([capped, expired, unread], force=True, **BY).done
    assert ward.redis.lindex("celery", 0) == b"\xff"
    assert json.loads(ward.redis.lindex("celery", 1))["headers"]["expires"] is None


def test_two_operators_replay_a_message_once(ward: Ward) -> None:
    ids = [ward.put(number) for number in range(3)]
    both = [threading.Thread(target=ward.desk.replay, args=(ids,), kwargs={**BY, "rate_per_s": 10_000}) for _ in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert ward.redis.llen("celery") == 3
    assert len(ward.told.of(QuarantineReplayed)) == 3


def test_a_key_that_is_no_list_keeps_the_message_in_quarantine(ward: Ward) -> None:
    ward.redis.set("celery", "a text")
    record_id = ward.put(1)
    assert "no queue" in ward.desk.replay([record_id], **BY).stayed[record_id]
    assert ward.desk.count()["messages"] == 1


def test_a_full_redis_loses_nothing_in_a_put_and_nothing_in_a_replay(ward: Ward) -> None:
    record_id = ward.put(1)
    before = ward.desk.count()
    ward.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.RedisError):
            ward.put(2)
        with pytest.raises(redis.RedisError):
            ward.desk.replay([record_id], **BY)
    finally:
        ward.redis.config_set("maxmemory", 0)
    assert ward.desk.count() == before
    assert ward.redis.llen("celery") == 0
    assert ward.desk.show(record_id) is not None


def test_a_discard_is_audited_and_told_and_says_what_was_there(ward: Ward) -> None:
    record_id = ward.put(1)
    assert ward.desk.discard([record_id, "77"], **BY) == [record_id]
    assert ward.desk.discard([record_id], **BY) == []
    (entry,) = ward.desk.audit()
    assert (entry["action"], entry["actor"], entry["reason"], entry["ids"]) == ("discard", "ada", "a test", record_id)
    assert [event.task_id for event in ward.told.of(QuarantineDiscarded)] == ["id1"]
    assert ward.redis.hgetall("celeriac:v1:quarantine:totals") == {b"n": b"1", b"bytes": b"0"}


def test_an_id_is_never_given_twice_although_the_counter_was_lost(ward: Ward) -> None:
    first = ward.put(1)
    ward.redis.delete("celeriac:v1:quarantine:totals")
    assert int(ward.put(2)) == int(first) + 1


@pytest.mark.parametrize("bad", ["", "0", "-1", "1 2", "*", "1" * 40, "\u0663", "1\n"])
def test_what_is_no_id_is_refused_in_one_sentence(ward: Ward, bad: str) -> None:
    for call in (
        ward.desk.show,
        lambda each: ward.desk.replay([each], **BY),
        lambda each: ward.desk.discard([each], **BY),
    ):
        with pytest.raises(ValueError, match="is no id of the quarantine"):
            call(bad)


def test_an_order_needs_who_why_a_rate_and_a_queue_that_can_be_meant(ward: Ward) -> None:
    for wrong in ({"actor": ""}, {"reason": " \n"}, {"rate_per_s": 0}, {"rate_per_s": float("nan")}, {"to": "\x00"}):
        with pytest.raises(ValueError, match=r"needs an actor|are not possible|no usable name"):
            ward.desk.replay(["1"], **{**BY, **wrong})
    with pytest.raises(ValueError, match="the reasons are undecodable"):
        ward.desk.list(because="poisn")


def test_an_empty_message_can_be_replayed_and_discarded(ward: Ward) -> None:
    first, second = (ward.desk.put_raw("celery", b"", "undecodable", "empty", key) for key in "ab")
    assert ward.desk.replay([first], force=True, **BY).moved == [first]
    assert ward.desk.discard([second], **BY) == [second]
    assert ward.redis.lrange("celery", 0, -1) == [b""]
    assert ward.redis.hgetall("celeriac:v1:quarantine:totals") == {b"n": b"2", b"bytes": b"0"}


def test_a_mangled_record_is_shown_as_one_and_can_be_discarded(ward: Ward) -> None:
    record_id = ward.put(1)
    ward.redis.hset("celeriac:v1:quarantine:records", record_id, b"\xffnonsense")
    (record,) = ward.desk.list()
    assert record.detail == "its record is mangled"
    assert ward.desk.discard([record_id], **BY) == [record_id]
    assert ward.desk.list() == []


def test_secrets_are_hidden_in_everything_but_the_bytes(ward: Ward) -> None:
    record_id = ward.put(1, argsrepr="('password=hunter2',)")
    record = ward.desk.show(record_id)
    assert record is not None
    assert "hunter2" not in json.dumps(record.to_json())
    assert b"hunter2" in (record.raw or b"")


def test_a_message_of_a_task_that_stood_in_goes_home_under_the_name_that_was_sent(ward: Ward) -> None:
    hops = [["celery", "shop.later on celery", "circuit payments open", 1]]
    journey = {"home": "orders", "task": "shop.charge", "level": 1, "spent": 0, "hops": hops, "hop_count": 1}
    one = ward.put(1, task="shop.later", celeriac=journey)
    ward.desk.replay([one], **BY)
    headers = json.loads(ward.redis.lindex("orders", 0))["headers"]
    assert (headers["task"], "celeriac" in headers) == ("shop.charge", False)
