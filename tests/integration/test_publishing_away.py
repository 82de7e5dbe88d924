"""Sending while the broker is away or silent ends in time, says whether the task was sent, and doubles nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from kombu.exceptions import OperationalError

from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tests.integration.conftest import StartWorkers
from tests.integration.publishing_kit import numbers, sender

BOUND = {"resilience_publish_timeout_s": 1.0}

pytestmark = pytest.mark.timeout(40)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_broker_that_refuses_is_told_in_one_sentence(own_redis: RedisServer) -> None:
    own_redis.stop()
    with sender(own_redis.url(), **BOUND) as task:
        with pytest.raises(OperationalError) as failed:
            task.apply_async((1,), task_id="t-1")
        said = str(failed.value)
        assert said.startswith("task plain[t-1] was not sent: the broker redis://")
        assert "is away (Error 111 connecting to" in said


def test_a_broker_that_takes_connections_and_is_silent_is_given_up(silent_port: int) -> None:
    """However many retries the policy has, which pauses for less than the bound: each would wait again."""
    said = r"^task plain\[t-1\] was not sent: .* did not answer within 1.0 s"
    many = {"max_retries": 200, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    with sender(f"redis://127.0.0.1:{silent_port}/0", **BOUND) as task, pytest.raises(OperationalError, match=said):
        task.apply_async((1,), task_id="t-1", retry_policy=many)


def test_a_task_sent_to_a_frozen_broker_may_have_been_sent_and_is_there_once(own_redis: RedisServer) -> None:
    with sender(own_redis.url(), **BOUND) as task:
        task.delay(0)
        own_redis.freeze()
        with pytest.raises(
            OperationalError, match=r"^task plain\[t-1\] may have been sent: .* did not answer within 1.0 s"
        ):
            task.apply_async((1,), task_id="t-1")
        own_redis.thaw()
        task.delay(2)
        assert numbers(own_redis.url()) == [0, 1, 2]


def test_an_unusual_call_is_bounded_too(own_redis: RedisServer) -> None:
    with sender(own_redis.url(), **BOUND) as task:
        task.delay(0)
        own_redis.freeze()
        with pytest.raises(OperationalError, match=r"may have been sent"):
            task.apply_async((1,), user_id="me")
        with task.app.connection_for_write() as connection, pytest.raises(OperationalError, match=r"was not sent"):
            task.apply_async((2,), connection=connection)
        own_redis.thaw()
        task.delay(3)
        assert numbers(own_redis.url()) == [0, 1, 3]


def test_a_producer_on_a_connection_that_was_there_before_is_bounded_too(own_redis: RedisServer) -> None:
    """As beat's is."""
    with sender(own_redis.url(), **BOUND) as task, task.app.connection_for_write() as connection:
        connection.ensure_connection()
        producer = task.app.amqp.Producer(connection, auto_declare=False)
        task.apply_async((0,), producer=producer)
        own_redis.freeze()
        with pytest.raises(OperationalError, match=r"may have been sent"):
            task.apply_async((1,), producer=producer)
        own_redis.thaw()
        task.apply_async((2,), producer=producer)
        assert numbers(own_redis.url()) == [0, 1, 2]


def test_a_broker_that_comes_back_within_the_policy_gets_the_task_once(own_redis: RedisServer) -> None:
    with sender(own_redis.url()) as task:
        task.delay(0)
        own_redis.kill()
        own_redis.restart()
        task.delay(1)
        assert numbers(own_redis.url()) == [1]


def test_a_policy_that_is_more_patient_than_the_bound_is_followed(own_redis: RedisServer) -> None:
    """It comes back after the bound is over, and before the policy gives up."""
    with sender(own_redis.url(), resilience_publish_timeout_s=0.05) as task:
        task.delay(0)
        own_redis.kill()
        later = threading.Timer(1.0, own_redis.restart)
        later.start()
        task.apply_async((1,), retry_policy={"max_retries": 20, "interval_start": 0.2, "interval_step": 0.0})
        later.join()
        assert numbers(own_redis.url()) == [1]


def test_a_timeout_of_the_users_stays(redis_url: str) -> None:
    with (
        sender(redis_url, broker_transport_options={"socket_timeout": 44}) as task,
        task.app.producer_pool.acquire(block=True) as producer,
    ):
        assert producer.connection.transport_options["socket_timeout"] == 44
        assert producer.connection.transport_options["socket_connect_timeout"] == 5.0


def test_a_connection_that_only_consumes_has_no_limit(redis_url: str) -> None:
    """A worker waits idly on it for longer than any publication may take."""
    with sender(redis_url) as task, task.app.connection_for_read() as connection:
        assert connection.default_channel.pool.connection_kwargs["socket_timeout"] is None


def test_a_full_broker_refuses_and_says_so(own_redis: RedisServer) -> None:
    with sender(own_redis.url(), **BOUND) as task, redis.Redis.from_url(own_redis.url()) as client:
        task.delay(0)
        client.config_set("maxmemory", 1)
        with pytest.raises(OperationalError, match=r"was not sent: .* refused it \(.*maxmemory"):
            task.delay(1)
        client.config_set("maxmemory", 0)
        assert numbers(own_redis.url()) == [0]


@pytest.mark.timeout(120)
def test_tasks_that_send_tasks_while_the_broker_is_frozen_lose_and_double_none(
    own_redis: RedisServer, workers: StartWorkers
) -> None:
    """In a worker's children the time is bounded too, but not so short that five seconds of silence are an error."""
    base = own_redis.url().rsplit("/", 1)[0]
    workers({"name": "w"}, env={"SHOP_REDIS": base})
    with sender(own_redis.url()) as task, redis.Redis.from_url(f"{base}/2", decode_responses=True) as book:
        for number in range(300):
            task.app.send_task("tasks.relay", (number,))
        until(lambda: book.llen("ran") > 20, what="tasks send tasks")
        own_redis.freeze()
        time.sleep(5)  # the silence itself
        own_redis.thaw()
        until(lambda: len(set(book.lrange("ran", 0, -1))) == 300, within_s=60, what="every task ran")
        assert book.llen("ran") == 300
