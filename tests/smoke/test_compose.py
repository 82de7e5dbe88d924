"""docker-compose.yml on a real engine: built, started, fed, broken and stopped as an operator would.

Configured like the file itself, by BASE_IMAGE, REDIS_IMAGE, PIP_ARGS and CELERIAC_IMAGE (which, when set, is kept). The
tests share one stack and run in the order of the file: the last one stops it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
SERVICES = ("redis", "worker", "fallback", "session", "beat", "flower")
WORKER_GRACE_S = 60.0
IMAGES = {"BASE_IMAGE": "python:3.11-slim-bookworm", "REDIS_IMAGE": "redis:7-bookworm"}

UPSTREAM = Path(__file__).with_name("compose_upstream.py")


def output_of(*command: str, env: dict[str, str] | None = None, timeout_s: float = 120.0) -> str:
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def succeeds(*command: str, timeout_s: float) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)  # another machine's state: nothing here to wait on
    return time.monotonic() - began


@dataclass(frozen=True)
class Stack:
    compose_command: tuple[str, ...]
    env: dict[str, str]

    def compose(self, *arguments: str, timeout_s: float = 120.0) -> str:
        return output_of(*self.compose_command, *arguments, env=self.env, timeout_s=timeout_s)

    def containers(self, *services: str) -> list[str]:
        return self.compose("ps", "-a", "-q", *services).split()

    def container(self, service: str) -> str:
        (only,) = self.containers(service)
        return only

    def address(self, service: str, port: int) -> str:
        """Where a port of a container can be reached; another one after each start."""
        return self.compose("port", service, str(port)).strip()

    def healthy(self, *services: str) -> bool:
        found = self.containers(*services)
        return all(inspect(container)["State"]["Health"]["Status"] == "healthy" for container in found)

    @contextmanager
    def producer(self) -> Iterator[Celery]:
        """A client outside, that knows nothing of our code."""
        url = f"redis://{self.address('redis', 6379)}"
        with Celery("outside", broker=f"{url}/0", backend=f"{url}/1", set_as_current=False) as app:
            yield app
            app.backend.result_consumer.stop()
            app.backend.client.close()

    def asked(self) -> list[dict[str, str]]:
        """What reached the upstream, in order."""
        lines = output_of("docker", "logs", self.container("upstream")).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of("docker", "inspect", container))[0]
    return found


def exit_code(container: str) -> int:
    return int(inspect(container)["State"]["ExitCode"])


def address_of(container: str) -> str:
    (network,) = inspect(container)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def log_of(container: str) -> str:
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def compose_or_skip() -> tuple[str, ...]:
    if not succeeds("docker", "info", timeout_s=5):
        pytest.skip("no Docker engine answers `docker info` within 5 s")
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and succeeds(*command, "version", timeout_s=20):
            return command
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


def images_or_skip() -> None:
    for variable, default in IMAGES.items():
        image = os.environ.get(variable) or default
        if not succeeds("docker", "image", "inspect", image, timeout_s=20) and not succeeds(
            "docker", "pull", "--quiet", image, timeout_s=180
        ):
            pytest.skip(f"image {image} is not here and cannot be pulled; {variable} may name another")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    command = compose_or_skip()
    images_or_skip()
    project = f"celeriac-smoke-{uuid.uuid4().hex[:8]}"
    image = os.environ.get("CELERIAC_IMAGE") or f"{project}:local"
    # JSON is YAML; Compose reads a dollar sign as the start of a variable
    extra = tmp_path_factory.mktemp("compose") / "upstream.yml"
    upstream = {
        "image": image,
        "init": True,
        "ports": ["127.0.0.1::8080"],
        "command": ["python", "-c", UPSTREAM.read_text()],
    }
    extra.write_text(json.dumps({"services": {"upstream": upstream}}).replace("$", "$$"))
    files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(extra))
    settings = {
        "CELERIAC_IMAGE": image,
        "CELERIAC_API_URL": "http://upstream:8080/v1",
        "CELERIAC_API_KEY": "none",
        "HEALTH_INTERVAL": "3s",
        "RESILIENCE_HEALTH_INTERVAL_S": "5",
        "FLOWER_PORT": "0",
        "REDIS_PORT": "",
        "WORKER_CONCURRENCY": "4",
    }
    stack = Stack((*command, "-p", project, "--project-directory", str(ROOT), *files), {**os.environ, **settings})
    try:
        stack.compose("build", timeout_s=600)
        stack.compose("up", "-d", timeout_s=180)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        if not os.environ.get("CELERIAC_IMAGE"):
            output_of("docker", "image", "rm", image)


def test_every_service_becomes_healthy(stack: Stack) -> None:
    eventually(lambda: stack.healthy(*SERVICES), 120, f"all of {SERVICES} healthy")

    restarts = {service: inspect(stack.container(service))["RestartCount"] for service in SERVICES}
    assert restarts == dict.fromkeys(SERVICES, 0)
    with urllib.request.urlopen(f"http://{stack.address('flower', 5555)}/healthcheck", timeout=10) as page:
        assert page.status == 200


def test_only_loopback_can_reach_the_published_ports(stack: Stack) -> None:
    for service, port in (("redis", 6379), ("flower", 5555)):
        assert stack.address(service, port).startswith("127.0.0.1:")


def test_a_task_goes_in_from_outside_and_its_result_comes_back(stack: Stack) -> None:
    with stack.producer() as app:
        echoed = app.send_task("tasks.session.echo", ("u42", "hello"), queue="sessions").get(timeout=30)
        answered = app.send_task("tasks.chat", ("good morning",)).get(timeout=30)

    assert echoed == {"session_id": "u42", "text": "hello"}
    assert (answered["answer"], answered["source"]) == ("GOOD MORNING", "primary")


def test_another_worker_runs_what_a_killed_one_held(stack: Stack) -> None:
    stack.compose("up", "-d", "--no-recreate", "--scale", "worker=2", "worker")
    workers = {address_of(container): container for container in stack.containers("worker")}
    assert len(workers) == 2
    eventually(lambda: stack.healthy("worker"), 60, "two healthy workers")
    prompts = [f"hold {number}" for number in range(4)]

    def holders() -> dict[str, str]:
        return {asked["prompt"]: asked["client"] for asked in stack.asked() if asked["prompt"] in prompts}

    with stack.producer() as app:
        sent = {prompt: app.send_task("tasks.chat", (prompt,)) for prompt in prompts}
        eventually(lambda: len(holders()) == len(prompts), 30, "every task is held at the upstream")
        ((victim, _),) = Counter(holders().values()).most_common(1)
        held = [prompt for prompt, client in holders().items() if client == victim]

        output_of("docker", "kill", workers[victim])

        took_s = eventually(lambda: all(sent[prompt].ready() for prompt in held), 10, "the other worker ran them")
        logger.info("%d tasks of the killed worker were done again after %.1f s", len(held), took_s)
        release = urllib.request.Request(f"http://{stack.address('upstream', 8080)}/release", data=b"{}")
        urllib.request.urlopen(release, timeout=10).close()
        assert {prompt: answer_of(result) for prompt, result in sent.items()} == {p: p.upper() for p in prompts}


def test_a_worker_whose_main_process_dies_is_started_again(stack: Stack) -> None:
    container = stack.container("fallback")

    output_of("docker", "exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")

    eventually(lambda: inspect(container)["RestartCount"] == 1, 30, "the engine started it again")
    eventually(lambda: stack.healthy("fallback"), 60, "it is healthy again")


def test_stopping_a_worker_lets_its_running_task_end(stack: Stack) -> None:
    running = [c for c in stack.containers("worker") if inspect(c)["State"]["Running"]]
    with stack.producer() as app:
        result = app.send_task("tasks.chat", ("slow and steady",))
        eventually(lambda: stack.asked()[-1]["prompt"] == "slow and steady", 30, "the task runs")

        stack.compose("stop", "worker")

        assert answer_of(result) == "SLOW AND STEADY"
    for container in running:
        assert exit_code(container) == 0
        assert "Warm shutdown" in log_of(container)


def test_queued_messages_survive_a_kill_of_redis(stack: Stack) -> None:
    with stack.producer() as app:  # no worker is up
        ids = [app.send_task("tasks.chat", (f"queued {number}",)).id for number in range(5)]

    output_of("docker", "kill", stack.container("redis"))
    stack.compose("start", "redis")
    eventually(lambda: stack.healthy("redis"), 30, "Redis is back")
    with redis.Redis.from_url(f"redis://{stack.address('redis', 6379)}/0") as client:
        waiting = {json.loads(message)["headers"]["id"] for message in client.lrange("celery", 0, -1)}
    assert waiting >= set(ids)  # and beat's health rounds
    stack.compose("start", "worker")

    with stack.producer() as app:
        answers = [answer_of(AsyncResult(task_id, app=app)) for task_id in ids]
        echoed = app.send_task("tasks.session.echo", ("u42", "still there"), queue="sessions").get(timeout=30)
    assert answers == [f"QUEUED {number}" for number in range(5)]
    assert echoed["text"] == "still there"  # the session worker found its way back by itself


def test_the_whole_stack_stops_within_its_grace_periods(stack: Stack) -> None:
    celery_services = [service for service in SERVICES if service != "redis"]
    began = time.monotonic()

    stack.compose("stop", timeout_s=2 * WORKER_GRACE_S)

    took_s = time.monotonic() - began
    codes = {(service, c): exit_code(c) for service in celery_services for c in stack.containers(service)}
    logger.info("%d containers stopped in %.1f s", len(codes), took_s)
    assert took_s < WORKER_GRACE_S
    assert set(codes.values()) == {0}, codes
    for service in ("worker", "fallback", "session"):
        assert all("Warm shutdown" in log_of(container) for container in stack.containers(service))


def answer_of(result: AsyncResult) -> str:
    return str(result.get(timeout=30)["answer"])
