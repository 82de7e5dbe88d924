"""The engine "processes": the plugin's container fixtures, on local processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.smoke.pytest_celery.nodes import ProcessRedis, ProcessWorker

StartWorker = Callable[[str], ProcessWorker]


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[ProcessRedis]:
    broker = ProcessRedis(tmp_path / "broker")
    yield broker
    broker.teardown()


@pytest.fixture
def default_redis_backend(tmp_path: Path) -> Iterator[ProcessRedis]:
    backend = ProcessRedis(tmp_path / "backend")
    yield backend
    backend.teardown()


@pytest.fixture
def start_worker(
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    tmp_path: Path,
) -> Iterator[StartWorker]:
    """Start a worker in the folder of that name."""
    with ExitStack() as started:

        def start(name: str) -> ProcessWorker:
            worker = ProcessWorker(
                tmp_path / name, default_worker_command, default_worker_env, default_worker_initial_content
            )
            started.callback(worker.teardown)
            return worker

        yield start


@pytest.fixture
def default_worker_container(start_worker: StartWorker) -> ProcessWorker:
    return start_worker("worker")


@pytest.fixture
def second_worker_container(start_worker: StartWorker) -> ProcessWorker:
    return start_worker("second-worker")
