"""A real Redis for the whole session, emptied for each test; the foreign project and its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess
from tests.integration.breaker_kit import make, own_redis
from tests.integration.cli_kit import cli
from tests.integration.works_kit import side

__all__ = ["cli", "make", "own_redis", "side"]  # fixtures

SHOP = Path(__file__).parent.parent / "foreign" / "shop"

StartWorkers = Callable[..., list[WorkerProcess]]


@pytest.fixture(scope="session")
def shop_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def shop_redis(shop_server: RedisServer) -> str:
    """Base URL (no database) of an empty Redis."""
    with redis.Redis(port=shop_server.port) as client:
        client.flushall()
    return f"redis://127.0.0.1:{shop_server.port}"


@pytest.fixture
def book(shop_redis: str) -> Iterator[redis.Redis]:
    """What the shop's tasks write down."""
    with redis.Redis.from_url(f"{shop_redis}/2", decode_responses=True) as client:
        yield client


@pytest.fixture
def broker(shop_redis: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"{shop_redis}/0", decode_responses=True) as client:
        yield client


@pytest.fixture
def workers(shop_redis: str, tmp_path: Path) -> Iterator[StartWorkers]:
    """Start workers of the shop, all at once: `workers({"name": "w1"}, {"name": "fb", "queues": "fallback"})`."""
    started: list[WorkerProcess] = []

    def start(*specs: dict[str, object], **common: object) -> list[WorkerProcess]:
        made = []
        for spec in specs:
            options = {**common, **spec}
            env = {"SHOP_REDIS": shop_redis, **options.pop("env", {})}  # type: ignore[dict-item]
            worker = WorkerProcess(SHOP, log_dir=tmp_path, env=env, **options)  # type: ignore[arg-type]
            started.append(worker)
            made.append(worker)
            worker.start()
        for worker in made:
            worker.wait_ready()
        return made

    yield start
    for worker in started:
        worker.ask_to_stop()
    for worker in started:
        worker.stop()
