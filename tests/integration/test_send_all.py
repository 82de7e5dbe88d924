"""Many tasks at once: the same messages as one by one, a round trip per batch, no doubt about what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import chain, group, signals
from kombu.exceptions import OperationalError

from resilience import NotAllSentError, send_all
from resilience.local.redis_server import RedisServer
from tests.integration.proxy import Proxy
from tests.integration.publishing_kit import commands, forget_commands, numbers, sender
from tests.integration.test_publishing_parity import left, shop

pytestmark = pytest.mark.timeout(40)


@pytest.fixture
def task(redis_url: str) -> Iterator[Any]:
    with sender(redis_url) as made:
        yield made


def test_a_batch_is_one_command_however_many_tasks(task: Any, redis_url: str) -> None:
    task.delay(-1)
    forget_commands(redis_url)
    results = send_all(task.s(number) for number in range(1_200))
    assert commands(redis_url) == {"lpush": 3}, "500, 500 and 200"
    assert numbers(redis_url) == list(range(-1, 1_200))
    assert [type(result).__name__ for result in results] == ["AsyncResult"] * 1_200
    assert len({result.id for result in results}) == 1_200


def test_nothing_is_sent_of_nothing(task: Any, redis_url: str) -> None:
    assert send_all([]) == []
    assert task.app.resilience.send_all(iter([])) == []


def test_each_signature_has_its_own_options_and_what_is_unusual_goes_in_its_turn(redis_url: str) -> None:
    """The same list one by one through stock Celery leaves the same, and says the same by signals."""

    def listed(task: Any) -> list[Any]:
        return [
            task.s(0),
            task.s(1, b="two").set(priority=5, task_id="1"),
            task.si(2).set(queue="other", countdown=60),
            task.s(3).set(link=task.s(4).set(task_id="l"), headers={"x": 1}),
            task.s(5).set(user_id="unusual"),
            task.s(6).set(queue="topical"),
            chain(task.s(7), task.s(8)),
            group(task.s(9), task.s(10)),
            task.s(11).set(expires=60, serializer="pickle", compression="zlib"),
            task.s(12).set(retry_policy={"max_retries": 1}),
            dict(task.s(13)),
        ]

    server = redis_url.rsplit("/", 1)[0]
    stock, ours = shop(f"{server}/0", resilient=False), shop(f"{server}/1", resilient=True)

    def one_by_one(app: Any, its: Any) -> None:
        for signature in listed(its):
            (app.signature(signature) if type(signature) is dict else signature).apply_async()

    def at_once(app: Any, its: Any) -> None:
        assert len(send_all(listed(its), app=app)) == 11

    expected, found = left(*stock, one_by_one), left(*ours, at_once)
    assert found["keys"] == expected["keys"]
    assert sorted(found["signals"]) == sorted(expected["signals"])
    stock[0].close()
    ours[0].close()


def test_a_task_is_told_as_sent_when_it_is(task: Any, redis_url: str) -> None:
    told: list[Any] = []

    def before(**_: Any) -> None:
        told.append("before")

    def after(**_: Any) -> None:
        told.append(len(numbers(redis_url)))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    send_all([task.s(number) for number in range(5)], batch=3)
    signals.before_task_publish.disconnect(before)
    signals.after_task_publish.disconnect(after)
    assert told == ["before"] * 3 + [3] * 3 + ["before"] * 2 + [5] * 2


def test_a_signature_that_cannot_be_serialized_is_named_before_its_batch_is_sent(task: Any, redis_url: str) -> None:
    signatures = [task.s(number) for number in range(7)]
    signatures[5] = task.s(object())
    with pytest.raises(NotAllSentError) as failed:
        send_all(signatures, batch=3)
    said = "3 tasks were sent, 0 may have been, 3 were not: signature 6 (plain) cannot be sent: Object of type object"
    assert str(failed.value).startswith(said)
    assert numbers(redis_url) == [0, 1, 2]
    assert failed.value.not_sent == signatures[3:6]


def test_wrong_arguments_are_named_as_a_call_would_name_them(task: Any, redis_url: str) -> None:
    with pytest.raises(NotAllSentError, match=r"signature 2 \(plain\) cannot be sent: .*positional argument"):
        send_all([task.s(1), task.s(1, 2, 3)])
    assert numbers(redis_url) == []


def test_a_connection_that_is_cut_in_the_middle_leaves_no_doubt(redis_server: RedisServer, redis_url: str) -> None:
    """The second batch reaches the broker, its answer does not come back: it is neither lost nor sent twice."""
    cut_after: list[int | None] = [None]
    with (
        Proxy(redis_server.port, cut_after=lambda: cut_after[0]) as proxy,
        sender(f"redis://127.0.0.1:{proxy.port}/0") as task,
    ):

        def signatures() -> Iterator[Any]:
            for number in range(40):
                if number == 15:
                    proxy.cut()  # the connection at hand is gone: the next batch needs a new one
                    cut_after[0] = 4_000  # and that one breaks in the midst of the batch
                yield task.s(number)

        with pytest.raises(
            NotAllSentError, match="10 tasks were sent, 10 may have been, 0 were not: the broker"
        ) as failed:
            send_all(signatures(), batch=10)
        assert isinstance(failed.value, OperationalError)
        assert [len(part) for part in (failed.value.sent, failed.value.unknown, failed.value.not_sent)] == [10, 10, 0]
        assert numbers(redis_url) in (list(range(10)), list(range(20)))


def test_a_batch_that_was_not_written_is_sent_after_all(own_redis: RedisServer) -> None:
    with sender(own_redis.url()) as task:
        task.delay(0)
        own_redis.kill()
        own_redis.restart()
        send_all([task.s(number) for number in range(1, 4)])
        assert numbers(own_redis.url()) == [1, 2, 3]


def test_a_broker_that_is_away_gets_nothing_and_that_is_said(own_redis: RedisServer) -> None:
    own_redis.stop()
    with sender(own_redis.url()) as task:
        signatures = [task.s(number) for number in range(5)]
        with pytest.raises(
            NotAllSentError, match=r"0 tasks were sent, 0 may have been, 5 were not: the broker .* is away"
        ):
            send_all(signatures)


def test_a_frozen_broker_may_have_got_the_batch(own_redis: RedisServer) -> None:
    with sender(own_redis.url(), resilience_publish_timeout_s=0.5) as task:
        task.delay(0)
        own_redis.freeze()
        with pytest.raises(NotAllSentError, match=r"0 tasks were sent, 3 may have been, 0 were not: .* did not answer"):
            send_all([task.s(number) for number in range(1, 4)])
        own_redis.thaw()
        task.delay(4)
        assert numbers(own_redis.url()) == [0, 1, 2, 3, 4]


def test_a_list_that_the_broker_refuses_does_not_hide_the_others(task: Any, redis_url: str) -> None:
    task.apply_async(queue="refusing")
    with redis.Redis.from_url(redis_url) as client:
        client.delete("refusing")
        client.set("refusing", "no list")
    mixed = [task.s(number).set(queue="refusing" if number % 2 else "celery") for number in range(6)]
    with pytest.raises(
        NotAllSentError, match=r"3 tasks were sent, 0 may have been, 3 were not: .* refused it"
    ) as failed:
        send_all(mixed)
    assert numbers(redis_url) == [0, 2, 4]
    assert failed.value.not_sent == mixed[1::2]


def test_eager_tasks_run_at_once(redis_url: str) -> None:
    with sender(redis_url, task_always_eager=True) as task:
        assert [result.state for result in send_all([task.s(1), task.s(2)])] == ["SUCCESS", "SUCCESS"]
        assert numbers(redis_url) == []
