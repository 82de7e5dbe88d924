"""The embedded pool: a whole Celery pool with its broker as children of this process."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from resilience.local.errors import EmbeddedPoolError
from resilience.local.keeper import EventKind, Member, SupervisorEvent
from resilience.local.layout import PoolLayout, WorkerRole, child_specs, urls_of, workers_of
from resilience.local.ports import LOOPBACK, accepts, free_port, require_free
from resilience.local.readiness import WorkerPing
from resilience.local.redis_server import RedisServer
from resilience.local.supervisor import Supervisor
from signals.redact import redact

__all__ = ["EmbeddedPool", "EmbeddedPoolError", "EventKind", "Member", "PoolLayout", "SupervisorEvent"]

_HOPELESS_AFTER_DEATHS = 2
_PING_S = 0.3
_FLOWER = "flower"
_REDIS = "redis"


def _ignore(_event: SupervisorEvent) -> None:
    """The default observer: nobody asked."""


class EmbeddedPool:
    """The processes of `layout`, from `start()` to `stop()`; a context manager.

    `app` is the Celery app object if there is one: only its control exchange and transport options are read.
    `on_event` hears of every start, death and restart, on a thread of the child concerned.
    """

    def __init__(
        self,
        layout: PoolLayout,
        *,
        app: Any | None = None,
        on_event: Callable[[SupervisorEvent], None] = _ignore,
    ) -> None:
        self.layout = layout
        self._app = app
        self._on_event = on_event
        self._redis: RedisServer | None = None
        self._supervisor: Supervisor | None = None
        self._data_dir: Path | None = None
        self._urls: tuple[str, str] | None = None
        self._flower_port: int | None = None

    def __enter__(self) -> EmbeddedPool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 30.0) -> None:
        """Start everything at once; returns when every worker answers and Flower listens.

        Raises EmbeddedPoolError, with nothing left running, when a port is taken, the given Redis does not
        answer, a child keeps dying (its last log lines are in the message), or `timeout_s` passes.
        """
        if self._supervisor is not None:
            raise EmbeddedPoolError("this pool was already started")
        try:
            self._start(time.monotonic() + timeout_s, timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every process, the broker last, and remove the temporary folder. May be called again."""
        interrupt: KeyboardInterrupt | None = None
        if self._supervisor is not None:
            try:
                self._supervisor.stop()
            except KeyboardInterrupt as raised:  # all is stopped by now; tidy up before it goes on
                interrupt = raised
        if self._redis is not None:
            self._redis.stop()
        if self._data_dir is not None and self.layout.data_dir is None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
        self._supervisor = self._redis = self._data_dir = None
        if interrupt is not None:
            raise interrupt

    def wait(self) -> None:
        """Block until KeyboardInterrupt (see `interrupts.interruptible` for SIGTERM)."""
        threading.Event().wait()

    @property
    def broker_url(self) -> str:
        return self._started_urls()[0]

    @property
    def backend_url(self) -> str:
        return self._started_urls()[1]

    @property
    def flower_url(self) -> str | None:
        """Where Flower is; None when the layout has none."""
        return f"http://{LOOPBACK}:{self._flower_port}" if self._flower_port is not None else None

    @property
    def log_dir(self) -> Path:
        return self._started_dir() / "logs"

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send `sig` to the main process of child `name` ("worker1", "redis"); what dies is started again."""
        self._started().kill(name, sig)

    def members(self) -> tuple[Member, ...]:
        """Every process as it is now: Redis, workers, beat, Flower."""
        return self._started().members()

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The last non-empty lines that child `name` wrote."""
        return self._started().log_tail(name, lines)

    def describe(self) -> list[tuple[str, str]]:
        """Where each process is, for people: (name, text) pairs. Passwords in URLs are hidden."""
        texts = {role.name: self._role_text(role) for role in workers_of(self.layout)}
        texts["beat"] = "schedules"
        texts[_FLOWER] = str(self.flower_url)
        texts[_REDIS] = f"{self.broker_url}, results in {self.backend_url}"
        if self._redis is not None:
            texts[_REDIS] += f" ({self._redis.binary.origin})"
        lines = [(member.name, f"{texts[member.name]}, pid {member.pid}") for member in self.members()]
        if self._redis is None:
            lines.insert(0, (_REDIS, redact(texts[_REDIS])))
        return [*lines, ("logs", str(self.log_dir))]

    def _start(self, deadline: float, timeout_s: float) -> None:
        if self.layout.flower:
            if self.layout.flower_port is not None:
                require_free(self.layout.flower_port, "Flower", "give another, or none to take a free one")
            self._flower_port = self.layout.flower_port or free_port()
        self._data_dir = self.layout.data_dir or Path(tempfile.mkdtemp(prefix="celeriac-pool-"))
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._supervisor = Supervisor(log_dir=self.log_dir, on_event=self._on_event)
        self._urls = self._start_redis(self._supervisor)
        for spec in child_specs(
            self.layout,
            broker_url=self._urls[0],
            backend_url=self._urls[1],
            data_dir=self._data_dir,
            flower_port=self._flower_port,
        ):
            self._supervisor.add(spec)
        self._await_workers(deadline, timeout_s)
        if self._flower_port is not None:
            self._await_flower(self._flower_port, deadline, timeout_s)

    def _start_redis(self, supervisor: Supervisor) -> tuple[str, str]:
        if self.layout.redis_url is not None:
            require_answer(self.layout.redis_url)
            return urls_of(self.layout.redis_url, self.layout.result_url)
        # append-only: the broker is a child like any other, and its death must not lose what it acknowledged
        self._redis = RedisServer(
            self._started_dir() / "redis",
            appendonly=True,
            keep=True,
            log_path=self.log_dir / "redis.log",
            on_event=self._on_event,
        )
        self._redis.start()
        supervisor.adopt(self._redis.keeper)
        return self._redis.url(0), self._redis.url(1)

    def _await_workers(self, deadline: float, timeout_s: float) -> None:
        missing = {role.node: role.name for role in workers_of(self.layout)}
        with WorkerPing(self.broker_url, self._app) as ping:
            while missing:
                self._raise_if_hopeless()
                for node in ping.answering(missing, _PING_S):
                    missing.pop(node, None)
                if missing and time.monotonic() > deadline:
                    self._raise_late(sorted(missing.values()), timeout_s)

    def _await_flower(self, port: int, deadline: float, timeout_s: float) -> None:
        from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

        def listens() -> bool:
            self._raise_if_hopeless()
            return accepts(port)

        poll = Retrying(
            stop=stop_after_delay(max(0.0, deadline - time.monotonic())),
            wait=wait_fixed(0.05),
            retry=retry_if_result(lambda done: not done),
        )
        try:
            poll(listens)
        except RetryError:
            self._raise_late([_FLOWER], timeout_s)

    def _raise_if_hopeless(self) -> None:
        for member in self.members():
            if member.restarts + (not member.alive) >= _HOPELESS_AFTER_DEATHS:
                raise EmbeddedPoolError(
                    f"{member.name} keeps dying at start ({member.last_exit}); its log ends with:\n"
                    f"{self.log_tail(member.name)}"
                )

    def _raise_late(self, names: list[str], timeout_s: float) -> None:
        raise EmbeddedPoolError(
            f"{', '.join(names)} did not answer within {timeout_s:.0f} s; the log of {names[0]} ends with:\n"
            f"{self.log_tail(names[0]) or '(nothing)'}"
        )

    def _role_text(self, role: WorkerRole) -> str:
        unit = "threads" if role.kind == "threads" else "processes"
        return f"queue {role.queue}, {self.layout.concurrency} {unit}"

    def _started(self) -> Supervisor:
        if self._supervisor is None:
            raise EmbeddedPoolError("this pool is not running; call start() first")
        return self._supervisor

    def _started_urls(self) -> tuple[str, str]:
        if self._urls is None:
            raise EmbeddedPoolError("this pool was not started yet, so it has no URLs")
        return self._urls

    def _started_dir(self) -> Path:
        if self._data_dir is None:
            raise EmbeddedPoolError("this pool is not running, so it has no folder")
        return self._data_dir


def require_answer(redis_url: str, timeout_s: float = 2.0) -> None:
    """Raise EmbeddedPoolError unless the Redis at `redis_url` answers a PING."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    shown = redact(redis_url)
    try:
        client = redis.Redis.from_url(
            redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise EmbeddedPoolError(f"{shown} is not a Redis URL (redis://host:port/db): {error}") from error
    with client:
        try:
            client.ping()
        except redis.RedisError as error:
            raise EmbeddedPoolError(
                f"no Redis answers at {shown} ({redact(str(error))}): start it, or leave the URL out to start one here"
            ) from error
