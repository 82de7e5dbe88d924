"""The demo: a pool, its upstream's outage and the SIGKILL of a worker, with every line accounted for at the end.

Nothing in it is special to a demo but the script of the upstream and a policy that keeps the circuit open 3 s: the
pool is `EmbeddedPool`, the lines go through `run_lines`, the figures are counted from files by `demo_report`.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from resilience.delivery.broker import Broker
from resilience.delivery.claims import Claims
from resilience.delivery.held import Held
from resilience.delivery.unacked import unacked_key
from resilience.local.pool import EmbeddedPool, PoolLayout
from resilience.middleware import Resilience
from resilience.workers.registry import Registry
from tasks.chat import CIRCUIT, FALLBACK_QUEUE, chat
from tasks.demo_report import DemoSummary, Evidence, Kill, summarise
from tasks.prompts import builtin_prompts
from tasks.run import RunOptions, RunProgress, RunSummary, run_lines
from tasks.upstream import Script, Upstream, read_log

LEAD_S = 5.0
OUTAGE: tuple[dict[str, Any], ...] = (
    {"for_s": 4.0, "mode": "503"},
    {"for_s": 3.0, "mode": "429", "retry_after_s": 1.0},
    {"for_s": 4.0, "mode": "hang"},
    {"for_s": 4.0, "mode": "refuse"},
)
POLICY = {"open_s": 3.0, "open_max_s": 3.0, "minimum_calls": 10, "window_s": 4.0, "ramp_s": 1.0}
LATENCY_S = 0.2
ATTEMPT_TIMEOUT_S = 1.0
KILL_AT = 0.7
VICTIM = "worker1"
LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class DemoOptions:
    """What the caller chooses. `resilience` off runs the same on stock Celery."""

    app_name: str
    work_dir: Path
    input_path: Path | None = None
    output_path: Path | None = None
    lines: int = 400
    resilience: bool = True
    flower: bool = True


@dataclass
class Scene:
    """What the live view shows; the demo's threads write, the view reads."""

    note: str = "starting the pool"
    progress: RunProgress | None = None
    circuits: dict[str, dict[str, Any]] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    workers: list[tuple[str, str]] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)
    upstream_mode: str = "ok"
    calls: int = 0
    failed_calls: int = 0
    retries: int = 0
    kill: Kill | None = None
    open_s: float = 0.0


class Demo:
    """One run of the demo. `scene` is there to be drawn while `run()` works."""

    def __init__(self, options: DemoOptions, resilience: Resilience) -> None:
        self.scene = Scene()
        self._options = options
        self._resilience = resilience
        self._stop = threading.Event()
        self._run: RunSummary | None = None
        self._failure: BaseException | None = None
        self._kill_began: tuple[str, int, float] | None = None

    def run(self, draw: Callable[[Scene], None]) -> DemoSummary:
        """Play it through and count. Raises RunError or EmbeddedPoolError with one sentence."""
        began = time.monotonic()
        work = self._options.work_dir
        source, output = self._input(), self._options.output_path or work / "answers.jsonl"
        script = Script.of([{"for_s": LEAD_S, "mode": "ok"}, *OUTAGE])
        key = f"sk-demo-{secrets.token_hex(8)}"
        with (
            Upstream(script, key=key, latency_s=LATENCY_S, log=work / "primary.log") as primary,
            Upstream(key=key, latency_s=LATENCY_S, log=work / "secondary.log") as secondary,
            EmbeddedPool(self._layout(key, primary, secondary), app=self._resilience.app) as pool,
        ):
            self.scene.places = [
                *pool.describe(),
                ("primary API", primary.url),
                ("secondary API", secondary.url),
            ]
            with self._pointed_at(pool):
                self._play(source, output, pool, (primary, secondary), draw)
        assert self._run is not None
        log = read_log(work / "primary.log")
        ended_at = log[0].t + script.length_s if log else None
        evidence = Evidence(source, output, log, read_log(work / "secondary.log"), ended_at)
        opens = sum(row.get("opened", 0) for row in self.scene.circuits.values())
        return summarise(evidence, self._run, self.scene.kill, self.scene.open_s, opens, time.monotonic() - began)

    def _play(
        self,
        source: Path,
        output: Path,
        pool: EmbeddedPool,
        upstreams: tuple[Upstream, Upstream],
        draw: Callable[[Scene], None],
    ) -> None:
        runner = threading.Thread(target=self._send, args=(source, output), name="demo-run", daemon=True)
        broker = Broker(self._resilience.app)
        runner.start()
        try:
            last = time.monotonic()
            while runner.is_alive():
                runner.join(LOOK_EVERY_S)
                now = time.monotonic()
                self._look(pool, broker, upstreams, now - last)
                last = now
                draw(self.scene)
            self._watch_recovery(broker, last_chance=True)
        finally:
            self._stop.set()
            runner.join()
            broker.close()
        if self._failure is not None:
            raise self._failure

    def _send(self, source: Path, output: Path) -> None:
        on = self._options.resilience
        options = RunOptions(window=48, resend=on, resend_after_s=10.0, give_up_s=8.0, settle_s=2.0)
        try:
            self._run = run_lines(
                self._resilience.app,
                chat,
                source,
                output,
                options=options,
                progress=self._progress,
                stop=self._stop,
            )
        except BaseException as error:  # noqa: BLE001  carried to the thread that waits for this one, and raised there
            self._failure = error

    def _progress(self, progress: RunProgress) -> None:
        self.scene.progress = progress
        self.scene.note = "answering"

    # -- looking -----------------------------------------------------------------------------------------------

    def _look(self, pool: EmbeddedPool, broker: Broker, upstreams: tuple[Upstream, Upstream], elapsed_s: float) -> None:
        scene, (primary, secondary) = self.scene, upstreams
        scene.upstream_mode = primary.phase().mode
        log = [*primary.requests, *secondary.requests]
        scene.calls, scene.failed_calls = len(log), sum(request.status != 200 for request in log)
        scene.retries = len(log) - len({request.request_id for request in log})
        scene.workers = [
            (
                member.name,
                f"pid {member.pid}" + (f", restarted {member.restarts}x" if member.restarts else ""),
            )
            for member in pool.members()
            if member.alive and not member.name.startswith(("redis", "beat", "flower"))
        ]
        with suppress(RedisError, OSError):  # a look that fails shows the last one; the run itself reports trouble
            for queue in ("celery", FALLBACK_QUEUE):
                scene.queues[queue] = int(broker.client.llen(broker.key(queue)))
            if self._options.resilience:
                self._look_at_circuits(elapsed_s)
            self._maybe_kill(pool, broker)
            self._watch_recovery(broker)

    def _look_at_circuits(self, elapsed_s: float) -> None:
        now = self._resilience.breakers.snapshots()
        for name, row in now.items():
            before = self.scene.circuits.get(name, {})
            opened = before.get("opened", 0)
            row["opened"] = opened + (row["state"] == "open" and before.get("epoch") != row["epoch"])
        self.scene.circuits = now
        if now.get(CIRCUIT, {}).get("state", "closed") != "closed":
            self.scene.open_s += elapsed_s

    # -- the SIGKILL -------------------------------------------------------------------------------------------

    def _maybe_kill(self, pool: EmbeddedPool, broker: Broker) -> None:
        progress = self.scene.progress
        if self._kill_began or progress is None or progress.done < KILL_AT * progress.total:
            return
        circuit = self.scene.circuits.get(CIRCUIT, {})
        if (
            self._options.resilience
            and circuit.get("state", "closed") != "closed"
            and progress.done < progress.total * 0.8
        ):
            return  # a worker whose circuit is open holds little; wait until it has work in hand
        pid = next(member.pid for member in pool.members() if member.name == VICTIM)
        owner = self._owner(broker, pid)
        pool.kill(VICTIM)
        self._kill_began = (owner, self._held(broker, owner), time.monotonic())
        self.scene.kill = Kill(VICTIM, self._kill_began[1], None)

    def _owner(self, broker: Broker, pid: int | None) -> str:
        live = Registry(broker, self._resilience.settings.namespace).live()
        return next((worker.owner for worker in live if worker.pid == pid), "")

    def _held(self, broker: Broker, owner: str) -> int:
        """Messages in the hands of a worker: its claims, and what kombu's own delivery noted as unacknowledged."""
        namespace = self._resilience.settings.namespace
        claimed = len(Claims(broker).tags(Held(namespace, owner))) if owner else 0
        key = unacked_key(namespace, owner) if owner else "unacked"
        return claimed + int(broker.client.hlen(broker.key(key)))

    def _watch_recovery(self, broker: Broker, last_chance: bool = False) -> None:
        if self._kill_began is None or self.scene.kill is None or self.scene.kill.back_after_s is not None:
            return
        owner, held, since = self._kill_began
        with suppress(RedisError, OSError):
            if owner and self._held(broker, owner) == 0 and (held or not last_chance):
                self.scene.kill = Kill(VICTIM, held, round(time.monotonic() - since, 1))

    # -- setting the stage -------------------------------------------------------------------------------------

    def _input(self) -> Path:
        if self._options.input_path is not None:
            return self._options.input_path
        path = self._options.work_dir / "prompts.jsonl"
        rows = ({"id": f"p{n}", "prompt": text} for n, text in enumerate(builtin_prompts(self._options.lines), 1))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    def _layout(self, key: str, primary: Upstream, secondary: Upstream) -> PoolLayout:
        env = {
            "CELERIAC_API_URL": primary.url,
            "CELERIAC_API_KEY": key,
            "CELERIAC_FALLBACK_API_URL": secondary.url,
            "CELERIAC_FALLBACK_API_KEY": key,
            "CELERIAC_API_TIMEOUT_S": str(ATTEMPT_TIMEOUT_S),
            **self._settings(),
        }
        return PoolLayout(app=self._options.app_name, env=env, flower=self._options.flower)

    def _settings(self) -> dict[str, str]:
        return {
            "RESILIENCE_ENABLED": "true" if self._options.resilience else "false",
            "RESILIENCE_CIRCUITS": json.dumps({CIRCUIT: POLICY}),
            "RESILIENCE_HEALTH_INTERVAL_S": "5",
        }

    @contextmanager
    def _pointed_at(self, pool: EmbeddedPool) -> Iterator[None]:
        """This process publishes to the embedded pool with the settings of its workers, then forgets it again."""
        mine = {
            "CELERY_BROKER_URL": pool.broker_url,
            "CELERY_RESULT_BACKEND": pool.backend_url,
            **self._settings(),
        }
        before = {name: os.environ.get(name) for name in mine}
        os.environ.update(mine)
        self._resilience.reconfigure()
        try:
            yield
        finally:
            self._resilience.reconfigure()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value
