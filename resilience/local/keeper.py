"""One child process, kept alive by one thread of its own.

The thread starts the child, waits for it, starts it again, and lives as long as the child does: the kernel's
death signal is tied to the thread that forked (see `orphans`). Every child leads its own session, so a Ctrl-C
in the terminal reaches the supervisor alone, and the child's whole process group can be ended with one call.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resilience.local.errors import EmbeddedPoolError
from resilience.local.orphans import bound_to_parent

_log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 5.0
STABLE_AFTER_S = 10.0  # a child that lived this long starts again from the shortest delay
_TAIL_BYTES = 8192


class EventKind(enum.Enum):
    STARTED = "started"
    EXITED = "exited"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to stop it. `env` None means the environment of this process."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    restart: bool = True
    stops_last: bool = False  # stopped after all others are gone: the broker that they need to shut down cleanly


@dataclass(frozen=True)
class SupervisorEvent:
    """One fact about one child. `ended` is "exit code 2" or "SIGKILL"; `delay_s` is set on RESTARTING."""

    kind: EventKind
    name: str
    pid: int | None
    ended: str | None = None
    delay_s: float | None = None
    deaths_in_a_row: int = 0

    def __str__(self) -> str:
        if self.kind is EventKind.RESTARTING:
            again = f", {self.deaths_in_a_row} times in a row" if self.deaths_in_a_row > 1 else ""
            return f"{self.name} ended ({self.ended}{again}): starting it again in {self.delay_s:.1f} s"
        pid = f" (pid {self.pid})" if self.pid else ""
        return f"{self.name}{pid} {self.kind.value}" + (f": {self.ended}" if self.ended else "")


@dataclass(frozen=True)
class Member:
    """A child as it is now. `started_at`: seconds since the epoch; `last_exit`: how its last life ended."""

    name: str
    pid: int | None
    alive: bool
    restarts: int
    started_at: float | None
    log_path: Path
    last_exit: str | None = None


def restart_delay_s(deaths_in_a_row: int) -> float:
    """Seconds before the next start: 0.2 after the first early death, doubling, 5 at most."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(deaths_in_a_row - 1, 16))


def describe_exit(returncode: int) -> str:
    """A Popen return code as a person says it: "exit code 2", "SIGKILL"."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-returncode}"


class Keeper:
    """Keeps the child of `spec` alive until a stop. `on_event` is called on the keeper's thread."""

    def __init__(self, spec: ChildSpec, log_path: Path, on_event: Callable[[SupervisorEvent], None]) -> None:
        self.spec = spec
        self.log_path = log_path
        self._on_event = on_event
        self._thread = threading.Thread(target=self._run, name=f"keeper-{spec.name}", daemon=True)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._launched = threading.Event()
        # not Thread.join: a KeyboardInterrupt in it marks a running thread as stopped (CPython 3.10 to 3.12)
        self._ended = threading.Event()
        self._launch_error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._started_at: float | None = None
        self._last_exit: str | None = None

    def start(self) -> None:
        """Start the child; returns when its process exists. Raises EmbeddedPoolError if none can be made."""
        self._thread.start()
        self._launched.wait()
        if self._launch_error is not None:
            raise EmbeddedPoolError(f"cannot start {self.spec.name}: {self._launch_error}") from self._launch_error

    @property
    def member(self) -> Member:
        process = self._process
        return Member(
            name=self.spec.name,
            pid=process.pid if process else None,
            alive=process is not None and process.returncode is None,
            restarts=max(0, self._starts - 1),
            started_at=self._started_at,
            log_path=self.log_path,
            last_exit=self._last_exit,
        )

    @property
    def running(self) -> bool:
        """Whether the keeper still keeps: its child lives or will be started again."""
        return self._thread.ident is not None and not self._ended.is_set()

    def send(self, sig: signal.Signals) -> None:
        """Send `sig` to the child's main process. Raises EmbeddedPoolError when it is not running."""
        with self._lock:
            process = self._process
            if process is None or process.returncode is not None:
                last = f"; its last life ended with {self._last_exit}" if self._last_exit else ""
                raise EmbeddedPoolError(f"{self.spec.name} is not running at the moment{last}")
            process.send_signal(sig)

    def request_stop(self) -> None:
        """Send the stop signal once and start it no more; does not wait."""
        with self._lock:
            already = self._stopping.is_set()
            self._stopping.set()
            process = self._process
            if not already and process is not None and process.returncode is None:
                process.send_signal(self.spec.stop_signal)
                process.send_signal(signal.SIGCONT)  # a frozen process takes no signal until it is thawed

    def kill_group(self) -> None:
        """SIGKILL the child and everything in its process group, and start it no more."""
        with self._lock:
            self._stopping.set()
            if self._process is not None and self._process.returncode is None:
                _kill_group(self._process.pid)

    def join(self, timeout_s: float) -> bool:
        """Wait until the child is gone and its keeper has ended; False if `timeout_s` was too short."""
        return not self.running or self._ended.wait(max(0.0, timeout_s))

    def log_tail(self, lines: int = 5) -> str:
        """The last non-empty lines of the child's log."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])

    def _run(self) -> None:
        try:
            self._keep()
        finally:
            self._ended.set()

    def _keep(self) -> None:
        deaths_in_a_row = 0
        while True:
            born = time.monotonic()
            process = self._launch()
            if process is not None:
                self._emit(EventKind.STARTED)
                returncode = process.wait()
                _kill_group(process.pid)  # what the main process left behind must not outlive it
                self._last_exit = describe_exit(returncode)
                self._emit(EventKind.EXITED, ended=self._last_exit)
            if self._stopping.is_set() or not self.spec.restart or self._starts == 0:
                break
            deaths_in_a_row = 1 if time.monotonic() - born >= STABLE_AFTER_S else deaths_in_a_row + 1
            delay_s = restart_delay_s(deaths_in_a_row)
            self._emit(
                EventKind.RESTARTING,
                ended=self._last_exit,
                delay_s=delay_s,
                deaths_in_a_row=deaths_in_a_row,
            )
            if self._stopping.wait(delay_s):
                break
        self._emit(EventKind.STOPPED)

    def _launch(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                self._launched.set()
                return None
            try:
                with self.log_path.open("ab") as log:
                    process = subprocess.Popen(
                        bound_to_parent(self.spec.argv),
                        env=None if self.spec.env is None else dict(self.spec.env),
                        cwd=self.spec.cwd,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
            except OSError as error:
                self._last_exit = f"cannot be started: {error}"
                if self._starts == 0:
                    self._launch_error = error
                self._launched.set()
                return None
            self._process = process
            self._starts += 1
            self._started_at = time.time()
            self._launched.set()
            return process

    def _emit(
        self,
        kind: EventKind,
        *,
        ended: str | None = None,
        delay_s: float | None = None,
        deaths_in_a_row: int = 0,
    ) -> None:
        pid = self._process.pid if self._process else None
        event = SupervisorEvent(kind, self.spec.name, pid, ended, delay_s, deaths_in_a_row)
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001  a faulty observer must not leave a child unkept
            _log.exception("the observer of %s failed on: %s", self.spec.name, event)


def _kill_group(pid: int) -> None:
    # ProcessLookupError: nobody is left in the group; PermissionError: macOS says so of a group of zombies
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
