"""pytest-celery's containers as local processes, so that its fixtures need no Docker.

The plugin makes its brokers, backends and workers of whatever is a `CeleryTestContainer`. These subclasses answer what
it asks of a container; the processes themselves are left to the project's own kit.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals

from celery import __version__ as celery_version
from pytest_celery import CeleryTestContainer, CeleryWorkerContainer, RedisContainer

from resilience.local.ports import LOOPBACK
from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess


class CeleriacWorker(CeleryWorkerContainer):
    """The plugin's worker, in either engine: two pool processes whatever the machine, and quick to start."""

    @classmethod
    def command(cls, *args: str, **options: object) -> list[str]:
        return super().command("-c", "2", "--without-gossip", "--without-mingle", *args, **options)

    @classmethod
    def version(cls) -> str:
        return celery_version


class ProcessContainer(CeleryTestContainer):
    """What needs no container of what the plugin asks of one. `log_path` is what the process writes to."""

    def __init__(self, log_path: Path) -> None:
        # not the base's: it wants a Docker container
        self._id = uuid.uuid4().hex[:12]
        self._log_path = log_path

    @property
    def _container(self) -> object:
        raise NotImplementedError(
            f"{self.name} is a process without a container around it: CELERIAC_TEST_ENGINE=docker has that method"
        )

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self._id}"

    def logs(self) -> str:
        """Everything since its first start, as Docker keeps it."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def reload(self) -> None:
        """Nothing: the state is read from the process each time."""


class ProcessRedis(ProcessContainer, RedisContainer):
    """A Redis on a free loopback port, which it keeps over a restart. Nothing persists, as in the plugin's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "redis.log")
        folder.mkdir(parents=True)
        self._server = RedisServer(folder, log_path=self._log_path)
        self._server.start()

    @property
    def status(self) -> str:
        return "running" if self._server.member.alive else "exited"

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def hostname(self) -> str:
        return LOOPBACK

    @property
    def url(self) -> str:
        return self._server.url(int(self.vhost))

    @property
    def host_url(self) -> str:
        return self.url

    def ready(self) -> bool:
        """Whether it runs: it has answered before its start returned."""
        return self.status == "running"

    def kill(self, signal: str | int = "SIGKILL") -> None:
        if as_signal(signal) is Signals.SIGKILL:
            self._server.kill()
        else:
            self._server.keeper.send(as_signal(signal))

    def restart(self, timeout: float = 10.0) -> None:
        self._server.restart()

    def teardown(self) -> None:
        self._server.stop()


class ProcessWorker(ProcessContainer, CeleriacWorker):
    """A worker in a folder of its own, started by the plugin's command with the plugin's content in it."""

    def __init__(
        self, folder: Path, command: Sequence[str], env: Mapping[str, str], content: Mapping[str, bytes]
    ) -> None:
        super().__init__(folder / "worker.log")
        for path, source in content.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source)
        command = [word.replace("%h", self.id) for word in command]  # a container's host name is its id
        self._env = {**env, "PYTHONPATH": str(folder)}
        self._worker = CommandedWorker(command, folder, self._env)
        self._worker.start()
        self._worker.wait_ready()

    @property
    def env(self) -> dict[str, str]:
        return dict(self._env)

    @property
    def status(self) -> str:
        return "running" if self._worker.running else "exited"

    def ready(self) -> bool:
        self._worker.wait_ready()
        return True

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._worker.kill(as_signal(signal))

    def restart(self, timeout: float = 10.0) -> None:
        self._worker.stop(grace_s=timeout)
        self._worker.start()
        self._worker.wait_ready()

    def teardown(self) -> None:
        """Kill it with its pool: containers are removed by force as well."""
        self._worker.stop(grace_s=0)


class CommandedWorker(WorkerProcess):
    """The kit's worker process, with the command given instead of put together."""

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder, "worker", folder, env=env)
        program, *arguments = command
        # the Celery of this environment, whatever is on PATH
        self._argv = [sys.executable, "-m", program, *arguments] if program == "celery" else list(command)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None


def as_signal(signal: str | int) -> Signals:
    """Docker takes names and numbers."""
    return Signals[signal] if isinstance(signal, str) else Signals(signal)
