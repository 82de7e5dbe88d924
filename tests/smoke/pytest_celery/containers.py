"""The engine "docker": the plugin's own containers, from images that may be named as for docker-compose.yml.

BASE_IMAGE, PIP_ARGS and REDIS_IMAGE as there; CELERIAC_IMAGE names an image of this project that is built already.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.images import Image
from pytest_celery import DEFAULT_WORKER_CONTAINER_TIMEOUT, DEFAULT_WORKER_VOLUME, REDIS_IMAGE
from pytest_docker_tools import container, fxtr

from resilience.local.ports import LOOPBACK, free_port
from tests.smoke.pytest_celery.nodes import CeleriacWorker

ROOT = Path(__file__).parents[3]
BUILD_ARGUMENTS = ("BASE_IMAGE", "PIP_ARGS")
ANSWERS_WITHIN_S = 5
CALL_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """The engine that DOCKER_HOST names, else the machine's own; without one the tests are skipped."""
    # asked by the command: the library leaves a socket open when nobody answers
    if not engine_answers():
        pytest.skip(
            f"CELERIAC_TEST_ENGINE is docker, and no Docker engine answers `docker info` within {ANSWERS_WITHIN_S} s"
        )
    client = docker.from_env(timeout=CALL_TIMEOUT_S)
    yield client
    client.close()


def engine_answers() -> bool:
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=ANSWERS_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # not installed, or it does not answer
        return False
    return asked.returncode == 0


@pytest.fixture(autouse=True)
def addresses_are_published_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's URLs are localhost and a published port; inside a container its own library would mix the two up."""
    monkeypatch.setattr("pytest_docker_tools.wrappers.container.tests_inside_container", lambda: False)


@pytest.fixture(scope="session")
def celery_base_worker_image(docker_client: docker.DockerClient) -> Image:
    """This project's image: the worker's app and tasks come in the plugin's volume."""
    built = os.environ.get("CELERIAC_IMAGE")
    if built:
        return docker_client.images.get(built)
    given = {name: os.environ[name] for name in BUILD_ARGUMENTS if os.environ.get(name)}
    image, _log = docker_client.images.build(path=str(ROOT), tag="celeriac:pytest-celery", buildargs=given, rm=True)
    return image


@pytest.fixture
def default_redis_broker_image() -> str:
    return os.environ.get("REDIS_IMAGE") or REDIS_IMAGE


@pytest.fixture
def default_redis_backend_image(default_redis_broker_image: str) -> str:
    return default_redis_broker_image


@pytest.fixture
def default_redis_broker_ports() -> dict[str, tuple[str, int]]:
    """A port that stays: Docker would choose another one at each start, and clients would look at the old."""
    return {"6379/tcp": (LOOPBACK, free_port())}


second_worker_container = container(
    image="{celery_base_worker_image.id}",
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
    wrapper_class=CeleriacWorker,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)
