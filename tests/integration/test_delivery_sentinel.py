"""Redis fails over to its replica, found through Sentinel: workers go on there; what was replicated is not lost.

What a primary confirmed and had not replicated when it died is lost by Redis itself, whoever asks it; so the tasks of
the first test are replicated before their primary dies. An end that was not replicated is told again: the task repeats.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from resilience.local.orphans import bound_to_parent
from resilience.local.ports import LOOPBACK, free_port
from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tests.integration.trouble_kit import Book, Publisher, Trouble, assert_in_time, book_server, long, say

__all__ = ["book_server"]  # a fixture

CONF = {"broker_transport_options": {"master_name": "shop"}}
LAG_S = 1.0
"""What ended so shortly before a primary died may not be replicated."""


@dataclass
class Watched:
    """A primary, its replica, a sentinel, and a worker of each pool that knows the sentinel only."""

    primary: RedisServer
    replica: RedisServer
    sentinel: redis.Redis
    url: str
    trouble: Trouble

    def address_of_primary(self) -> int:
        return int(self.sentinel.sentinel_get_master_addr_by_name("shop")[1])


@pytest.fixture
def watched(book_server: RedisServer, tmp_path: Path) -> Iterator[Watched]:
    with (
        RedisServer(tmp_path / "one", appendonly=True) as primary,
        RedisServer(
            tmp_path / "two", appendonly=True, directives={"replicaof": f"{LOOPBACK} {primary.port}"}
        ) as replica,
        redis.Redis.from_url(book_server.url(), decode_responses=True) as client,
        redis.Redis(port=primary.port) as at_primary,
    ):
        client.flushall()
        until(lambda: at_primary.wait(1, 100) == 1, what="the replica follows")
        port = free_port()
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"bind {LOOPBACK}\nport {port}\ndir {tmp_path}\n"
            f"sentinel monitor shop {LOOPBACK} {primary.port} 1\n"
            "sentinel down-after-milliseconds shop 1000\n"
            "sentinel failover-timeout shop 3000\n"
        )
        with (
            (tmp_path / "sentinel.log").open("wb") as log,
            subprocess.Popen(
                bound_to_parent([str(primary.binary.path), str(conf), "--sentinel"]), stdout=log, stderr=log
            ) as process,
            redis.Redis(port=port, decode_responses=True) as sentinel,
        ):
            until(lambda: _answers(port), what="the sentinel answers")
            until(lambda: sentinel.sentinel_slaves("shop"), what="it knows the replica")
            trouble = Trouble(replica, Book(client), tmp_path, conf=CONF)
            try:
                url = f"sentinel://{LOOPBACK}:{port}/0"
                trouble.start_one_of_each_pool(url=url)
                yield Watched(primary, replica, sentinel, url, trouble)
            finally:
                trouble.stop()
                process.terminate()


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.timeout(180)
def test_a_dead_primary_is_followed_by_its_replica(watched: Watched) -> None:
    trouble = watched.trouble
    with Publisher(watched.url, **CONF) as publisher, redis.Redis(port=watched.primary.port) as at_primary:
        publisher.send(1000, 0.02)
        assert at_primary.wait(1, 5000) == 1, "all of them are replicated"
        until(lambda: len(trouble.book.back_after_s(0)) == 3, what="all are at work")
        fails_at = time.time()
        watched.primary.kill()
        until(lambda: watched.address_of_primary() == watched.replica.port, what="the replica is the primary")
        promoted = time.time()
        took = trouble.until_all_work_again(promoted)
        trouble.until_done(publisher)
    say("repeats", **trouble.book.repeats())
    assert_in_time(took)
    assert not ended_before(fails_at - LAG_S, trouble.book), "only what its replica cannot know of is repeated"
    assert not any("died" in worker.log() for worker in trouble.workers), "nobody was taken for dead"


@long
@pytest.mark.timeout(180)
def test_a_failover_by_command_loses_nothing(watched: Watched) -> None:
    """The former primary lives on as a replica, which refuses what is written to it."""
    trouble = watched.trouble
    with Publisher(watched.url, **CONF) as publisher, redis.Redis(port=watched.primary.port) as at_primary:
        publisher.send(1000, 0.02)
        assert at_primary.wait(1, 5000) == 1, "all of them are replicated"
        until(lambda: len(trouble.book.back_after_s(0)) == 3, what="all are at work")
        fails_at = time.time()
        watched.sentinel.sentinel_failover("shop")
        until(lambda: watched.address_of_primary() == watched.replica.port, what="the replica is the primary")
        promoted = time.time()
        took = trouble.until_all_work_again(promoted)
        trouble.until_done(publisher)
    say("repeats", **trouble.book.repeats())
    assert_in_time(took)
    assert not ended_before(fails_at, trouble.book), "only what the former primary was told at the last is repeated"
    assert sum(trouble.book.repeats().values()) < 500, "they left it long before it was made a replica"
    assert not any("died" in worker.log() for worker in trouble.workers), "nobody was taken for dead"


def ended_before(at: float, book: Book) -> set[str]:
    """Ids of repeated tasks that had ended by then."""
    counts = Counter(note.task_id for note in book.notes("began"))
    return {note.task_id for note in book.notes("ended") if note.at < at and counts[note.task_id] > 1}
