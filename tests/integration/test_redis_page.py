"""The page about Redis: circuits and workers run as the users that it defines, and nothing they do is refused."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery, chord

from resilience import Breakers
from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink, WorkerProcess, until
from signals.bus import Bus
from signals.events import StoreAway, StoreBack
from tests.integration.breaker_kit import LONG, fail, refused
from tests.integration.conftest import SHOP

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"


def users_of_the_page() -> dict[str, list[str]]:
    """The users' rules by name, as `ACL SETUSER` takes them."""
    commands = [block.split() for block in re.findall(r"```acl\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]
    assert all(words[:2] == ["ACL", "SETUSER"] for words in commands)
    return {words[2]: words[3:] for words in commands}


@pytest.fixture
def admin(own_redis: RedisServer) -> Iterator[redis.Redis]:
    """A Redis with the users of the page."""
    with redis.Redis.from_url(own_redis.url(), decode_responses=True) as client:
        for name, rules in users_of_the_page().items():
            client.execute_command("ACL", "SETUSER", name, *rules)
        client.acl_log_reset()
        yield client


def denied(admin: redis.Redis) -> list[tuple[str, str]]:
    """Why and what of every refusal, but for the client's name that a driver tells and Redis 6.2 does not know."""
    log = [(str(entry["reason"]), str(entry["object"])) for entry in admin.acl_log()]
    return [entry for entry in log if not entry[1].startswith("client")]


MakeUser = Callable[[RecordingSink], Breakers]


@pytest.fixture
def as_circuits(own_redis: RedisServer, admin: redis.Redis) -> Iterator[MakeUser]:
    made: list[Breakers] = []

    def build(sink: RecordingSink) -> Breakers:
        bus = Bus()
        bus.subscribe(sink)
        url = f"redis://circuits:PASSWORD@127.0.0.1:{own_redis.port}/0"
        made.append(Breakers.from_url(url, policies={"a": LONG}, bus=bus))
        return made[-1]

    yield build
    for breakers in made:
        breakers.close()


def test_circuits_are_shared_by_the_user_of_the_page(as_circuits: MakeUser, admin: redis.Redis) -> None:
    sink = RecordingSink()
    one, other = as_circuits(sink), as_circuits(sink)
    assert other.get_state("a") == "closed"
    fail(one, 5)
    until(lambda: other.get_state("a") == "open", what="the other heard of it")
    other.reset("a", actor="ann", reason="it is up again")
    assert one.snapshot("a")["state"] == "closed"
    one.force_open("a", actor="ann", reason="maintenance", ttl_s=60)
    until(lambda: other.get_state("a") == "forced_open", what="the other heard of the order")
    assert not sink.of(StoreAway)
    assert denied(admin) == []


@pytest.mark.parametrize("without", ["-evalsha", "-@write", "resetchannels"])
def test_a_user_without_a_right_counts_alone_and_no_call_fails(
    without: str, as_circuits: MakeUser, admin: redis.Redis
) -> None:
    admin.execute_command("ACL", "SETUSER", "circuits", without)
    sink = RecordingSink()
    breakers = as_circuits(sink)
    breakers.record_success("a")
    until(lambda: sink.of(StoreAway), what="it said so")
    fail(breakers, 5)
    assert refused(breakers), "its own breaker opened"


def test_the_user_for_circuits_can_do_nothing_else(as_circuits: MakeUser, admin: redis.Redis) -> None:
    port = admin.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, username="circuits", password="PASSWORD") as user:
        for command in (["GET", "celery"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)


def test_a_full_redis_is_away_until_it_takes_writes_again(as_circuits: MakeUser, admin: redis.Redis) -> None:
    sink = RecordingSink()
    breakers = as_circuits(sink)
    breakers.record_success("a")
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1")
    breakers.record_success("a")
    until(lambda: sink.of(StoreAway), what="it said so")
    fail(breakers, 5)
    assert refused(breakers), "its own breaker opened"
    admin.config_set("maxmemory", "0")
    until(lambda: sink.of(StoreBack), what="it noticed")


# -- a worker ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(own_redis: RedisServer, admin: redis.Redis) -> str:
    """Base URL of the shop's Redis for the page's user, who may also touch the keys of the shop's own tasks."""
    admin.execute_command("ACL", "SETUSER", "worker", "~began", "~ran", "~go", "~audited")
    return f"redis://worker:PASSWORD@127.0.0.1:{own_redis.port}"


@pytest.fixture
def app(shop: str) -> Iterator[Celery]:
    with Celery("publisher", broker=f"{shop}/0", backend=f"{shop}/1", set_as_current=False) as app:
        yield app


def test_workers_run_recover_and_answer_as_the_user_of_the_page(
    shop: str, app: Celery, admin: redis.Redis, tmp_path: Path
) -> None:
    env = {"SHOP_REDIS": shop}
    with WorkerProcess(SHOP, "one", tmp_path, env=env, concurrency=1) as first:
        held = app.send_task("tasks.hold", (1,), priority=3)
        until(lambda: "began" in keys_of_the_shop(admin), what="the first worker runs it")
        with WorkerProcess(SHOP, "two", tmp_path, env=env, concurrency=1):
            first.kill(signal.SIGKILL)
            with redis.Redis.from_url(f"{shop}/2") as book:
                book.set("go", 1)
            assert held.get(timeout=30) == 1, "the other worker took over what the dead one held"
            assert app.send_task("tasks.flaky", (1,)).get(timeout=30) == 2, "a retry is a message too"
            both = [app.signature("tasks.refund", (number,)) for number in (1, 2)]
            assert chord(both, app.signature("tasks.total"), app=app).apply_async().get(timeout=30) == 16
            assert until(lambda: app.control.ping(timeout=1.0), what="it answers a ping")
    for channel in ("/0.celeryev/*", "/0.celeryev/worker.*"):  # Flower and gossip listen so
        assert hears_itself(shop, channel)
    assert denied(admin) == []


def test_tasks_are_parked_and_released_as_the_user_of_the_page(
    shop: str, app: Celery, admin: redis.Redis, tmp_path: Path
) -> None:
    sink = RecordingSink()
    bus = Bus()
    bus.subscribe(sink)
    breakers = Breakers.from_url(f"{shop}/0", bus=bus)
    try:
        breakers.force_open("payments", actor="ann", reason="maintenance")
        with WorkerProcess(SHOP, "one", tmp_path, env={"SHOP_REDIS": shop}, concurrency=1):
            answer = app.send_task("tasks.refund", (7,))
            until(lambda: any("parked.payments" in key for key in admin.keys()), what="it is parked")  # noqa: SIM118
            breakers.reset("payments", actor="ann", reason="done")
            assert answer.get(timeout=30) == "refund 7"
    finally:
        breakers.close()
    assert denied(admin) == []


def hears_itself(url: str, pattern: str) -> bool:
    """Whether the user of `url` may listen to `pattern` and tell something on a channel that fits."""
    with redis.Redis.from_url(f"{url}/0") as user, user.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.psubscribe(pattern)
        subscription.get_message(timeout=1.0)
        user.publish("/0.celeryev/worker.heartbeat", "beat")
        return bool(until(lambda: subscription.get_message(timeout=0.1), what=f"{pattern} is heard"))


def keys_of_the_shop(admin: redis.Redis) -> set[str]:
    with redis.Redis(port=admin.connection_pool.connection_kwargs["port"], db=2, decode_responses=True) as book:
        return set(book.keys())
