"""What a process said of a task's begin reaches the server, however the process ends a moment later."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import redis

from resilience.delivery.marks import QUIET_S, Marker
from resilience.local.orphans import bound_to_parent
from resilience.local.redis_server import RedisServer
from resilience.testing import until

FILLS_THE_KERNEL = 200_000

CODE = """
import collections, ctypes, os, signal, sys, types, redis
from resilience.delivery.marks import Marker
begun = collections.deque()
marker = Marker(types.SimpleNamespace(async_pool=redis.ConnectionPool.from_url(sys.argv[1])), "unbegun", begun)
marker.connect()
for tag in range(int(sys.argv[2])):
    begun.append(str(tag))
    marker.say()
{}
"""
ENDS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "ctypes.string_at(0)",
    "gone without a word": "os._exit(1)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "in a loop that keeps the interpreter": "ctypes.PyDLL(None).usleep(60_000_000)",
}


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def said(client: redis.Redis, url: str, marks: int, end: str) -> None:
    """A process says so many marks, then ends so; they arrive, while it is looked at by nobody."""
    client.sadd("unbegun", *map(str, range(marks + 1)))
    process = subprocess.Popen(bound_to_parent([sys.executable, "-c", CODE.format(end), url, str(marks)]))
    try:
        until(lambda: client.smembers("unbegun") == {str(marks).encode()}, what="only the neighbour is unmarked")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_mark_outlives_the_process_that_said_it(client: redis.Redis, redis_url: str, end: str) -> None:
    said(client, redis_url, 3, end)


def test_who_may_not_silence_the_server_marks_all_the_same(client: redis.Redis, redis_server: RedisServer) -> None:
    client.execute_command("ACL", "SETUSER", "plain", "on", ">word", "~*", "+@all", "-client")
    said(client, redis_server.url().replace("://", "://plain:word@", 1), 200, ENDS["killed"])


def test_a_connection_that_the_server_closed_meanwhile_swallows_no_mark(client: redis.Redis, redis_url: str) -> None:
    begun = collections.deque(["1"])
    client.sadd("unbegun", "1", "2")
    marker = Marker(SimpleNamespace(async_pool=redis.ConnectionPool.from_url(redis_url)), "unbegun", begun)
    marker.connect()
    marker.say()
    until(lambda: client.smembers("unbegun") == {b"2"}, what="the first one arrived")
    said_at = time.monotonic()
    [its_own] = [row for row in client.client_list() if row["cmd"] == "srem"]
    client.client_kill_filter(_id=its_own["id"])
    until(lambda: time.monotonic() - said_at > QUIET_S, what="a quiet while")
    begun.append("2")
    marker.say()
    assert list(begun) == ["2"], "the next turn tells it"
    marker.tend()
    marker.say()
    until(lambda: not client.smembers("unbegun"), what="it speaks again")
    marker.close()


def test_a_server_that_stands_still_holds_up_no_task() -> None:
    """Marks go on into the kernel until it is full; from then on they are left to the turns. None is lost."""
    begun: collections.deque[str] = collections.deque()
    with RedisServer() as server, redis.Redis.from_url(server.url()) as client:
        marker = Marker(SimpleNamespace(async_pool=redis.ConnectionPool.from_url(server.url())), "unbegun", begun)
        marker.connect()
        tags = [str(tag) for tag in range(FILLS_THE_KERNEL)]
        client.sadd("unbegun", *tags)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for tag in tags:
                begun.append(tag)
                marker.say()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert 0 < len(begun) < len(tags)
        until(lambda: client.smembers("unbegun") == {tag.encode() for tag in begun}, what="what was said arrived")
        marker.close()
