"""A real Redis for the whole test session, and the same one emptied for a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from resilience.local.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis that all tests of the session share."""
    with redis.Redis.from_url(redis_server.url()) as client:
        client.flushall()
    return redis_server.url()
