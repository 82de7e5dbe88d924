"""pytest-celery set up for Celeriac: one Redis as broker, one for results, the plugin's own worker app plus two lines.

CELERIAC_TEST_ENGINE says what runs them: "processes" (the default) or "docker". The tests are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import celery
import pytest
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    RedisTestBackend,
    RedisTestBroker,
)

from tests.smoke.pytest_celery.nodes import CeleriacWorker

ENGINE = os.environ.get("CELERIAC_TEST_ENGINE") or "processes"

# both files define the same fixtures; pytest finds them by their names here
if ENGINE == "processes":
    from tests.smoke.pytest_celery.processes import *  # noqa: F403
elif ENGINE == "docker":
    from tests.smoke.pytest_celery.containers import *  # noqa: F403
else:
    raise pytest.UsageError(f"CELERIAC_TEST_ENGINE is {ENGINE}: it may be processes or docker")

TWO_LINES = b"""
from resilience import Resilience
Resilience(app)
"""


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    """Redis only; the plugin would run each test on RabbitMQ as well."""
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_redis_backend)


@pytest.fixture
def celery_setup_app(
    celery_setup_cls: type[CeleryTestSetup], celery_setup_config: dict[str, str], celery_setup_name: str
) -> Iterator[Celery]:
    """The plugin's publisher, which knows nothing of Celeriac; closed afterwards, and no longer the current app."""
    before = celery.current_app._get_current_object()
    app = celery_setup_cls.create_setup_app(celery_setup_config, celery_setup_name)
    yield app
    before.set_current()
    app.pool.force_close_all()
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


@pytest.fixture
def default_worker_container_cls() -> type[CeleriacWorker]:
    return CeleriacWorker


@pytest.fixture(scope="session")
def default_worker_container_session_cls() -> type[CeleriacWorker]:
    return CeleriacWorker


@pytest.fixture
def default_worker_initial_content(default_worker_initial_content: dict[str, bytes]) -> dict[str, bytes]:
    """The plugin's worker app, adopted as its user would adopt Celeriac."""
    content = default_worker_initial_content
    return {**content, "app.py": content["app.py"] + TWO_LINES}


@pytest.fixture
def second_worker(second_worker_container: CeleriacWorker, celery_setup_app: Celery) -> Iterator[CeleryTestWorker]:
    worker = CeleryTestWorker(second_worker_container, app=celery_setup_app)
    yield worker
    worker.teardown()
