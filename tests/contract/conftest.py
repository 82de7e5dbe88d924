"""A circuit on both sides, for stories that tests tell step by step; and an app on an empty Redis with its broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from celery import Celery

from resilience.breaker.policy import BreakerPolicy
from resilience.delivery.broker import Broker
from resilience.local.redis_server import RedisServer
from tests.contract.pair import MakePair, Pair

NOW = 1_700_000_000_000


@pytest.fixture
def pair(redis_server: RedisServer) -> Iterator[MakePair]:
    """`pair(policy, now_ms)`: one of them, on an empty Redis."""
    pairs: list[Pair] = []

    def make(policy: BreakerPolicy, now_ms: int = NOW) -> Pair:
        pairs.append(Pair(redis_server.url(), policy, now_ms))
        return pairs[-1]

    yield make
    for made in pairs:
        made.close()


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Without the middleware; a module that needs more has one of its own."""
    with Celery("contract", broker=redis_url, set_as_current=False) as app:
        yield app


@pytest.fixture
def broker(app: Celery) -> Iterator[Broker]:
    with closing(Broker(app)) as broker:
        yield broker
