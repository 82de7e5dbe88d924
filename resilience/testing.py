"""The test kit: real workers of a project in a folder, and waiting on conditions instead of sleeping.

Shipped, so that users can test their own policies against real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import psutil
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from resilience.local.orphans import bound_to_parent
from signals.events import Event

T = TypeVar("T")


def until(condition: Callable[[], T], within_s: float = 20.0, what: str = "") -> T:
    """The condition's first true value. Raises AssertionError when there is none within `within_s` seconds."""
    poll = Retrying(
        stop=stop_after_delay(within_s), wait=wait_fixed(0.02), retry=retry_if_result(lambda value: not value)
    )
    try:
        return poll(condition)
    except RetryError as error:
        last = error.last_attempt.result()
        raise AssertionError(f"not within {within_s:g} s: {what or condition} (last: {last!r})") from None


class RecordingSink:
    """A sink that keeps what it was given: `Resilience(app).bus.subscribe(sink)`."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


class WorkerProcess:
    """`celery -A app worker` of the project in `folder`, as its user would start it; its log lies in `log_dir`.

    `args` are further words for the command line, such as `--autoscale=4,1`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        log_dir: Path,
        *,
        app: str = "tasks",
        queues: str = "celery",
        pool: str = "prefork",
        concurrency: int = 2,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.log_path = log_dir / f"{name}.log"
        self._folder = folder
        self._env = {**os.environ, **(env or {})}
        self._argv = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@test", "-Q", queues),
            *("-P", pool, "-c", str(concurrency), "-l", "INFO", "--without-gossip", "--without-mingle"),
            *args,
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0

    def __enter__(self) -> WorkerProcess:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code of a main process that has ended; None while it lives."""
        assert self._process is not None
        return self._process.poll()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def start(self) -> None:
        """Start without waiting, so that several can boot at once."""
        self._read_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                bound_to_parent(self._argv),
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_ready(self, within_s: float = 20.0) -> None:
        def ready() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"worker {self.name} ended with {self._process.returncode}:\n{self.log()[-3000:]}")
            return " ready." in self.log()

        until(ready, within_s, f"worker {self.name} ready")

    def log(self) -> str:
        """What it wrote since its last start."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(self._read_from)
            return log.read().decode(errors="replace")

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.pid).children(recursive=True))

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send `sig` to the main process only, and wait for its end when it is SIGKILL."""
        assert self._process is not None
        self._process.send_signal(sig)
        if sig is signal.SIGKILL:
            self._process.wait()

    def ask_to_stop(self) -> None:
        """Begin the warm shutdown without waiting for its end, so that several can stop at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, grace_s: float = 10.0) -> int | None:
        """Warm shutdown, then SIGKILL of what is left; the exit code."""
        if self._process is None:
            return None
        family = [*self.children(), psutil.Process(self.pid)] if self._process.poll() is None else []
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in family:
            if process.is_running() and process.pid != self.pid:
                process.kill()
        return self._process.returncode
