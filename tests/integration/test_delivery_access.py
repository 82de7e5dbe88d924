"""Who may speak to the broker, and by which way: users, passwords that change, providers, sockets, several URLs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

from resilience import Breakers
from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tests.claims import claimed
from tests.integration.proxy import Proxy
from tests.integration.test_redis_page import users_of_the_page
from tests.integration.trouble_kit import Book, Publisher, Trouble, assert_in_time, book_server, trouble

__all__ = ["book_server", "trouble"]  # fixtures


def as_user(trouble: Trouble, name: str, password: str = "PASSWORD") -> str:
    return f"redis://{name}:{password}@127.0.0.1:{trouble.server.port}/0"


def make_users(trouble: Trouble) -> None:
    for name, rules in users_of_the_page().items():
        trouble.broker.execute_command("ACL", "SETUSER", name, *rules)
    trouble.broker.acl_log_reset()


def test_the_publisher_of_the_page_publishes_and_asks_circuits_and_can_do_nothing_else(trouble: Trouble) -> None:
    make_users(trouble)
    url = as_user(trouble, "publisher")
    with Publisher(url) as publisher:
        publisher.send(3)
        publisher.send(3, queue="fallback", priority=3)
    breakers = Breakers.from_url(url)
    try:
        for _ in range(5):
            breakers.record_failure("upstream")
        assert breakers.get_state("upstream") == "open"
    finally:
        breakers.close()
    refused = [entry["object"] for entry in trouble.broker.acl_log() if entry["object"] != "client"]
    assert not refused, "a driver tells its name with CLIENT, which Redis 6.2 does not know"
    with redis.Redis.from_url(url) as user:
        for command in (
            ["RPOP", "celery"],
            ["LRANGE", "celery", "0", "-1"],
            ["FLUSHALL"],
            ["KEYS", "*"],
            ["GET", "any"],
        ):
            with pytest.raises(NoPermissionError):
                user.execute_command(*command)


@pytest.mark.parametrize("missing", ["", "-client"])
def test_workers_wait_idly_as_the_user_of_the_page_and_also_without_the_right_to_unblock(
    trouble: Trouble, missing: str
) -> None:
    make_users(trouble)
    if missing:
        trouble.broker.execute_command("ACL", "SETUSER", "worker", missing)
    (solo,) = trouble.start({"name": "solo"}, url=as_user(trouble, "worker"), pool="solo", concurrency=1)
    until(lambda: trouble.broker.info("clients")["blocked_clients"] >= 4, what="it waits")
    with Publisher(as_user(trouble, "publisher")) as publisher:
        publisher.send(20, 0.02)
        trouble.until_done(publisher)
    assert "refuses" not in solo.log()
    assert not trouble.book.repeats()


def test_a_password_that_is_rotated_cuts_no_worker_off(trouble: Trouble) -> None:
    """A credential provider reads it from a file at every connection."""
    secret = trouble.folder / "secret"
    secret.write_text("one")
    trouble.broker.execute_command("ACL", "SETUSER", "worker", "on", ">one", "~*", "&*", "+@all")
    url = f"redis://127.0.0.1:{trouble.server.port}/0?credential_provider=providers.FromFile"
    trouble.start({"name": "one"}, url=url, env={"TROUBLED_SECRET": str(secret)})
    publisher = trouble.publisher()
    publisher.send(10, 0.02)
    until(lambda: publisher.sent <= trouble.book.ended(), what="it works")
    assert sum(client["user"] == "worker" for client in trouble.broker.client_list()) > 5, "as the provider's user"
    secret.write_text("two")
    trouble.broker.execute_command("ACL", "SETUSER", "worker", ">two", "<one")
    publisher.send(10, 0.02)
    until(lambda: publisher.sent <= trouble.book.ended(), what="it works on")
    trouble.broker.client_kill_filter(_type="normal", skipme=True)
    until(lambda: "Connection to broker lost" in trouble.workers[0].log(), what="it was cut off")
    publisher.send(10, 0.02)
    trouble.until_done(publisher)
    assert not trouble.book.repeats()


def test_a_socket_with_a_database_and_a_prefix_is_a_broker_as_any_other(
    book_server: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    directives = {"unixsocket": str(path)}
    with (
        RedisServer(tmp_path / "redis", directives=directives) as server,
        redis.Redis.from_url(book_server.url(), decode_responses=True) as client,
    ):
        client.flushall()
        conf = {"broker_transport_options": {"global_keyprefix": "shop:"}}
        trouble = Trouble(server, Book(client), tmp_path, conf=conf)
        url = f"redis+socket://{path}?virtual_host=3"
        try:
            first, _ = trouble.start({"name": "a"}, {"name": "b"}, url=url)
            with Publisher(url) as publisher:
                publisher.app.conf.broker_transport_options = conf["broker_transport_options"]
                publisher.send(40, 0.02)
                until(trouble.book.ended, what="they work")
                first.kill()
                trouble.until_done(publisher)
            with redis.Redis(port=server.port, db=3, decode_responses=True) as there:
                assert all(key.startswith("shop:") for key in there.keys("*"))
                assert not claimed(there)
        finally:
            trouble.stop()


def test_the_second_of_two_broker_urls_is_used_when_the_first_is_gone(trouble: Trouble) -> None:
    with Proxy(trouble.server.port) as other:
        with Proxy(trouble.server.port) as first:
            urls = f"redis://127.0.0.1:{first.port}/0;redis://127.0.0.1:{other.port}/0"
            trouble.start_one_of_each_pool(url=urls)
            publisher = trouble.publisher()
            publisher.send(200, 0.02)
            publisher.keep_sending(per_s=60, for_s=0.02)
            until(lambda: len(trouble.book.back_after_s(0)) == 3, what="all are at work")
        took = trouble.until_all_work_again(time.time())
        trouble.until_done(publisher)
    assert_in_time(took)
    assert not trouble.book.repeats()
