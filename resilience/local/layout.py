"""Which processes the embedded pool has, and the command line and environment of each."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from resilience.local.errors import EmbeddedPoolError
from resilience.local.keeper import ChildSpec
from resilience.local.ports import LOOPBACK

_BROKER_VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
# the defaults of `celery --broker` and `--result-backend`, which would override the variables above
_OVERRIDES = ("BROKER_URL", "RESULT_BACKEND")


@dataclass(frozen=True)
class PoolLayout:
    """The pool of app `app` (what `celery -A` takes). `concurrency` is per worker process, sessions included.

    `redis_url` None starts a Redis of our own. A URL that names no database gives 0 to the broker and 1 to
    the results; one that names a database gives it to both, unless `result_url` says
    where the results are. `flower_port` None takes a free port. `data_dir`
    None is a temporary folder.
    """

    app: str
    workers: int = 2
    concurrency: int = 2
    fallback_workers: int = 1
    session_workers: int = 1
    beat: bool = True
    flower: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    redis_url: str | None = None
    result_url: str | None = None
    default_queue: str = "celery"
    fallback_queue: str = "fallback"
    session_queue: str = "sessions"
    flower_port: int | None = None
    data_dir: Path | None = None
    loglevel: str = "WARNING"
    stop_grace_s: float = 10.0

    def __post_init__(self) -> None:
        counts = {
            "workers": self.workers,
            "fallback_workers": self.fallback_workers,
            "session_workers": self.session_workers,
        }
        for name, count in counts.items():
            if count < 0:
                raise EmbeddedPoolError(f"{name} is {count}; it must be 0 or more")
        if self.concurrency < 1:
            raise EmbeddedPoolError(f"concurrency is {self.concurrency}; it must be 1 or more")
        if not any(counts.values()):
            raise EmbeddedPoolError("a pool without any worker runs nothing: ask for at least one")


@dataclass(frozen=True)
class WorkerRole:
    """One worker: its name in the pool, its queue, its kind of pool ("prefork" or "threads")."""

    name: str
    queue: str
    kind: str

    @property
    def node(self) -> str:
        """The name under which Celery knows it."""
        return f"{self.name}@{socket.gethostname()}"


def workers_of(layout: PoolLayout) -> tuple[WorkerRole, ...]:
    """Every worker of the pool, in the order of their start."""
    roles = (
        ("worker", layout.workers, layout.default_queue, "prefork"),
        ("fallback", layout.fallback_workers, layout.fallback_queue, "prefork"),
        ("session", layout.session_workers, layout.session_queue, "threads"),
    )
    return tuple(
        WorkerRole(f"{name}{number}", queue, kind)
        for name, count, queue, kind in roles
        for number in range(1, count + 1)
    )


def urls_of(redis_url: str, result_url: str | None = None) -> tuple[str, str]:
    """Broker URL and result backend URL on the Redis at `redis_url`."""
    if result_url is not None:
        return redis_url, result_url
    parts = urlsplit(redis_url)
    if parts.path.strip("/"):
        return redis_url, redis_url
    return urlunsplit(parts._replace(path="/0")), urlunsplit(parts._replace(path="/1"))


def child_specs(
    layout: PoolLayout, *, broker_url: str, backend_url: str, data_dir: Path, flower_port: int | None
) -> tuple[ChildSpec, ...]:
    """Every Celery process of the pool: workers first, then beat, then Flower."""
    env = {**os.environ, **layout.env}
    for name in _OVERRIDES:
        env.pop(name, None)
    # both directions as well: an app that sets broker_write_url would otherwise publish elsewhere
    env |= dict.fromkeys(_BROKER_VARIABLES, broker_url)
    env.setdefault("RESILIENCE_WORKER_RESTARTS", "true")  # the supervisor does it
    env["CELERY_RESULT_BACKEND"] = backend_url
    # what a SIGKILLed worker leaves in its temporary folder goes with the pool's
    scratch = data_dir / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    env["TMPDIR"] = str(scratch)
    celery = (sys.executable, "-m", "celery", "-A", layout.app)

    def spec(name: str, *argv: str) -> ChildSpec:
        return ChildSpec(name=name, argv=(*celery, *argv), env=env, stop_grace_s=layout.stop_grace_s)

    specs = [spec(role.name, *_worker_argv(role, layout)) for role in workers_of(layout)]
    if layout.beat:
        schedule = str(data_dir / "beat-schedule")
        specs.append(spec("beat", "beat", "--schedule", schedule, "--loglevel", layout.loglevel))
    if flower_port is not None:
        specs.append(spec("flower", "dashboard", f"--port={flower_port}", f"--address={LOOPBACK}"))
    return tuple(specs)


def _worker_argv(role: WorkerRole, layout: PoolLayout) -> tuple[str, ...]:
    return (
        *("worker", "--hostname", role.node, "--queues", role.queue, "--pool", role.kind),
        *("--concurrency", str(layout.concurrency), "--loglevel", layout.loglevel),
        *("--without-gossip", "--without-mingle"),
    )
