"""A circuit on both sides, the pure and the shared one, for stories that tests tell step by step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.breaker.policy import BreakerPolicy
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
