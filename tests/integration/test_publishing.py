"""How a task is sent: what it costs the broker, from which threads and processes, and through whose hands it goes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from kombu import Queue

from resilience import Resilience
from tests.integration.publishing_kit import commands, forget_commands, numbers, sender


def test_a_task_is_sent_with_one_command(redis_url: str) -> None:
    with sender(redis_url) as task:
        task.delay(0)
        forget_commands(redis_url)
        for number in range(1, 51):
            task.delay(number)
        assert commands(redis_url) == {"lpush": 50}
        assert numbers(redis_url) == list(range(51))


def test_sending_does_not_ask_the_result_backend(redis_url: str) -> None:
    """Nobody listens at its address; stock Celery tries for 20 s and then fails."""
    with sender(redis_url, result_backend="redis://127.0.0.1:1/0") as task:
        result = task.delay(1)
        assert numbers(redis_url) == [1]
        assert result.id


def test_a_result_that_came_before_anybody_waited_is_found(redis_url: str) -> None:
    with sender(redis_url, result_backend=redis_url, result_expires=None) as task:
        result = task.delay(1)
        task.backend.store_result(result.id, 42, "SUCCESS")
        assert result.get(timeout=10) == 42
        task.backend.result_consumer.stop()
        task.backend.client.close()


@pytest.mark.parametrize("waits", ["get", "then", "set"])
def test_a_result_that_comes_while_somebody_waits_is_told(redis_url: str, waits: str) -> None:
    with sender(redis_url, result_backend=redis_url, result_expires=None) as task:
        results = [task.delay(number) for number in range(2)]
        told: list[Any] = []
        for result in results if waits == "then" else ():
            result.then(lambda ready: told.append(ready.result))
        group = task.app.ResultSet(results)

        def answer() -> None:
            for number, result in enumerate(results):
                task.backend.store_result(result.id, number, "SUCCESS")

        later = threading.Timer(0.3, answer)
        later.start()
        got = group.join_native(timeout=10) if waits == "set" else [result.get(timeout=10) for result in results]
        later.join()
        assert got == [0, 1]
        assert sorted(told) == ([0, 1] if waits == "then" else [])
        task.backend.result_consumer.stop()
        task.backend.client.close()


def test_a_result_whose_announcement_was_lost_is_found(redis_url: str) -> None:
    with sender(redis_url, result_backend=redis_url, result_expires=None) as task:
        backend, result = task.backend, task.delay(1)
        meta = backend.encode({"status": "SUCCESS", "result": 42, "task_id": result.id})
        later = threading.Timer(0.3, lambda: backend.client.set(backend.get_key_for_task(result.id), meta))
        later.start()
        assert result.get(timeout=20) == 42
        later.join()
        backend.result_consumer.stop()
        backend.client.close()


def test_threads_send_side_by_side(redis_url: str) -> None:
    with sender(redis_url) as task:

        def send(first: int) -> None:
            for number in range(first, first + 50):
                task.delay(number)

        threads = [threading.Thread(target=send, args=(50 * one,)) for one in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers(redis_url)) == list(range(600))


def test_a_forked_process_sends_over_connections_of_its_own(redis_url: str) -> None:
    with sender(redis_url) as task, redis.Redis.from_url(redis_url) as client:
        task.delay(-1)
        before = {one["id"] for one in client.client_list()}
        children = []
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                for number in range(30):
                    task.delay(100 * (child + 1) + number)
                os._exit(0)
            children.append(pid)
        for number in range(30):
            task.delay(number)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
        expected = {first + number for first in (0, 100, 200, 300) for number in range(30)} | {-1}
        assert Counter(numbers(redis_url)) == Counter(expected)
        assert before <= {one["id"] for one in client.client_list()}, "the parent's connections were left alone"


def _send_from_child(url: str, task: Any) -> None:
    task.delay(7)


def test_a_process_of_multiprocessing_sends(redis_url: str) -> None:
    with sender(redis_url) as task:
        task.delay(6)
        child = multiprocessing.get_context("fork").Process(target=_send_from_child, args=(redis_url, task))
        child.start()
        child.join()
        task.delay(8)
        assert child.exitcode == 0
        assert numbers(redis_url) == [6, 7, 8]


def test_greenlets_send_side_by_side(redis_url: str) -> None:
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, sys\n"
        "from tests.integration.publishing_kit import sender\n"
        "with sender(sys.argv[1]) as task:\n"
        "    gevent.joinall([gevent.spawn(task.delay, number) for number in range(60)], raise_error=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, redis_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(numbers(redis_url)) == list(range(60))


def test_a_tool_that_wrapped_kombus_publish_sees_every_task(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = kombu.Producer.publish

    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(options["routing_key"])
        return original(self, *args, **options)

    with sender(redis_url) as task:
        task.delay(1)
        monkeypatch.setattr(kombu.Producer, "publish", wrapped)
        task.delay(2)
        assert seen == ["celery"]
        assert numbers(redis_url) == [1, 2]


def test_a_tool_that_wrapped_the_redis_client_sees_every_command(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    original = redis.Redis.execute_command

    def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return original(self, *args, **options)

    with sender(redis_url) as task:
        task.delay(1)
        monkeypatch.setattr(redis.Redis, "execute_command", wrapped)
        task.delay(2)
        assert seen == ["LPUSH"]
        monkeypatch.undo()
        assert numbers(redis_url) == [1, 2]


def test_an_apps_own_send_task_is_asked(redis_url: str) -> None:
    class Project(Celery):
        asked = 0

        def send_task(self, *args: Any, **options: Any) -> Any:
            self.asked += 1
            return super().send_task(*args, **options)

    app = Project("project", broker=redis_url, set_as_current=False)
    Resilience(app)
    task = app.task(_noted, name="noted", shared=False)
    task.delay(1)
    assert app.asked == 1
    assert numbers(redis_url) == [1]
    kombu.pools.reset()


def _noted(number: int) -> None:
    """Never run."""


def test_an_open_circuit_sends_to_the_fallback(redis_url: str) -> None:
    with sender(redis_url) as task:
        app = task.app
        guarded = app.task(_noted, name="guarded", shared=False, circuit="c", fallback=["fallback"])
        app.resilience.breakers.force_open("c", actor="test", reason="test")
        guarded.delay(1)
        app.resilience.send_all([guarded.s(2), guarded.s(3)])
        assert numbers(redis_url, "fallback") == [1, 2, 3]
        assert numbers(redis_url) == []
        app.resilience.breakers.close()


def test_switched_off_kombus_own_producer_sends(redis_url: str) -> None:
    with sender(redis_url, resilience_publishing_enabled=False) as task:
        with task.app.producer_pool.acquire(block=True) as producer:
            assert type(producer) is kombu.Producer
        task.delay(1)
        assert numbers(redis_url) == [1]


def test_a_key_prefix_of_the_users_is_kept(redis_url: str) -> None:
    with sender(redis_url, broker_transport_options={"global_keyprefix": "mine:"}) as task:
        task.delay(1)
        task.app.resilience.send_all([task.s(2)])
        assert numbers(redis_url, "mine:celery") == [1, 2]


def test_a_queue_that_expires_is_sent_to_with_its_lifetime(redis_url: str) -> None:
    with (
        sender(redis_url, task_queues=[Queue("celery", expires=500)]) as task,
        redis.Redis.from_url(redis_url) as client,
    ):
        for send in (lambda: task.delay(1), lambda: task.app.resilience.send_all([task.s(2)])):
            client.persist("celery")
            send()
            assert client.pttl("celery") > 0
        assert numbers(redis_url) == [1, 2]
