"""Redis answers, but refuses: no memory, no disk, a script that runs on and on, no connection more, not the primary.

A worker goes on with what it can do, waits for the rest without a storm, and is back when Redis is; nothing is lost.
"""

from __future__ import annotations

import threading
import time

import pytest
import redis

from resilience.testing import until
from tests.integration.trouble_kit import Publisher, Trouble, _fleet, assert_in_time, book_server, fleet, load, long

__all__ = ["_fleet", "book_server", "fleet", "load"]  # fixtures

AWAY_S = 2.0
"""How long each trouble lasts."""


def test_workers_empty_the_queues_of_a_redis_without_memory(fleet: Trouble, load: Publisher) -> None:
    """Taking, acknowledging and giving back move what is there: they need no memory, so they are not refused."""
    fleet.broker.config_set("maxmemory", "1")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        fleet.broker.set("any", "thing")
    sent = set(load.sent)
    until(lambda: not sent - fleet.book.ended(), within_s=30, what="all that was there has run")
    fleet.broker.config_set("maxmemory", "0")
    since = time.time()
    assert_in_time(fleet.until_all_work_again(since))
    fleet.until_done(load)
    assert_calm(fleet)


def test_a_redis_that_cannot_write_its_disk_is_waited_for(fleet: Trouble, load: Publisher) -> None:
    """MISCONF: every write is refused, also an acknowledgement; each is told when the server writes again."""
    gone = fleet.folder / "gone"
    gone.mkdir()
    fleet.broker.config_set("save", "3600 1000000")
    fleet.broker.config_set("dir", str(gone))
    gone.rmdir()
    fleet.broker.bgsave()
    until(lambda: refuses_writes(fleet), what="writes are refused")
    time.sleep(AWAY_S)
    fleet.broker.config_set("save", "")
    since = time.time()
    assert_in_time(fleet.until_all_work_again(since))
    fleet.until_done(load)
    assert_calm(fleet)


def refuses_writes(fleet: Trouble) -> bool:
    try:
        fleet.broker.set("any", "thing")
    except redis.ResponseError:
        return True
    return False


def test_a_script_that_blocks_redis_is_waited_for(fleet: Trouble, load: Publisher) -> None:
    fleet.broker.config_set("lua-time-limit", "100")

    def block() -> None:
        with redis.Redis.from_url(fleet.server.url()) as client, pytest.raises(redis.ResponseError):
            client.eval("while true do end", 0)

    blocker = threading.Thread(target=block)
    blocker.start()
    time.sleep(AWAY_S)
    fleet.broker.script_kill()
    blocker.join()
    since = time.time()
    assert_in_time(fleet.until_all_work_again(since))
    fleet.until_done(load)
    assert_calm(fleet)


@long
def test_a_redis_without_connections_to_give_is_waited_for(fleet: Trouble, load: Publisher) -> None:
    """Everybody is cut off and nobody is let in for a while."""
    mine = fleet.broker.client_id()
    fleet.broker.config_set("maxclients", "1")
    for client in fleet.broker.client_list():
        if int(client["id"]) != mine:
            fleet.broker.client_kill_filter(_id=client["id"])
    time.sleep(AWAY_S)
    fleet.broker.config_set("maxclients", "1000")
    since = time.time()
    assert_in_time(fleet.until_all_work_again(since))
    fleet.until_done(load)
    assert_calm(fleet)


def test_a_primary_that_becomes_a_replica_and_primary_again_is_left_and_found_again(
    fleet: Trouble, load: Publisher
) -> None:
    """Its data stays, as it never finds the primary that it is told of."""
    fleet.broker.replicaof("127.0.0.1", "1")
    time.sleep(AWAY_S)
    fleet.broker.replicaof("no", "one")
    since = time.time()
    assert_in_time(fleet.until_all_work_again(since))
    fleet.until_done(load)
    assert_calm(fleet)


def assert_calm(fleet: Trouble) -> None:
    """No worker ended, none was taken for dead, none filled its log."""
    for name, lines in fleet.said().items():
        ours = [line for line in lines if "celeriac" in line or "ERROR" in line or "CRITICAL" in line]
        assert len(ours) <= 10, f"{name} fills its log"
        assert not any("taken for dead" in line or "Unrecoverable" in line for line in ours)
    assert not fleet.book.repeats()
