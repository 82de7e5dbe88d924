"""Many circuits: what a call costs when they are used in turn, what each takes in Redis, how long a look at all is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from resilience import Breakers
from resilience.breaker.store import CircuitStore
from resilience.breaker.view import Views
from resilience.local.redis_server import RedisServer
from resilience.shared_redis import SharedRedis, connect
from tests.bench.harness import Contender, Table, interleave, timed
from tests.bench.peers import NEVER, Dependency, Peer, Stage, succeed

SHOP = Path(__file__).parents[1] / "foreign" / "shop"


def tables(stage: Stage) -> list[Table]:
    return [round_robin(stage), memory(stage), looks(stage)]


def round_robin(stage: Stage) -> Table:
    """Calls that succeed, each through the circuit whose turn it is."""

    def contender(peer: Peer) -> Contender:
        lap = stage.batch([peer.circuit(Dependency(), NEVER) for _ in range(stage.size.circuits)], awaited=peer.awaited)

        def laps() -> int:
            calls, until = 0, time.perf_counter() + stage.size.lap_s
            while time.perf_counter() < until:
                calls += lap()
            stage.breakers.flush()  # what was put off is paid for here
            return calls

        return Contender(peer.name, lambda: timed(laps, stage.meter))

    return Table(
        f"{stage.size.circuits:,} circuits used in turn, all closed, calls that succeed",
        f"Laps of all circuits for {stage.size.lap_s:g} s, as fast as they go; celeriac's reports are part of it.",
        interleave([contender(peer) for peer in stage.peers], stage.size.load_rounds),
        "pybreaker, Redis",
    )


def memory(stage: Stage) -> Table:
    """Redis memory per circuit after a success and four failures."""

    def contender(peer: Peer) -> Contender:
        def measure() -> dict[str, float]:
            stage.clear()
            before = stage.meter.look().memory_bytes
            for _ in range(stage.size.circuits):
                dependency = Dependency()
                call = peer.circuit(dependency, NEVER)
                stage.batch([call], awaited=peer.awaited)()
                dependency.failing = True
                stage.batch([call] * 4, awaited=peer.awaited)()
            return {"bytes": (stage.meter.look().memory_bytes - before) / stage.size.circuits}

        return Contender(peer.name, measure)

    peers = [stage.ours, stage.pybreaker_redis, stage.purgatory_redis]
    return Table(
        "Redis memory per circuit",
        "After a success and four failures. Celeriac keeps a window of outcomes, what feeds it, and an index of all.",
        interleave([contender(peer) for peer in peers], 2),
        "pybreaker, Redis",
        "bytes",
    )


def looks(stage: Stage) -> Table:
    """What a process pays to learn of all circuits at once, and an operator to see them; one circuit and many."""
    with RedisServer() as few, RedisServer() as many:
        contenders = [_look(stage, few.url(), 1), _look(stage, many.url(), stage.size.circuits)]
        rows = interleave(contenders, stage.size.load_rounds)
    return Table(
        "A look at all circuits",
        "Refresh: a process reads the index anew. Snapshots: all of every circuit. List: the command `breaker list`, "
        "its start included.",
        rows,
    )


def _look(stage: Stage, url: str, count: int) -> Contender:
    with closing(Breakers.from_url(url, timeout_s=5.0)) as breakers:
        for number in range(count):
            breakers.call(f"bench-{number}", succeed)
            breakers.record_failure(f"bench-{number}")

    def measure() -> dict[str, float]:
        with closing(Breakers.from_url(url, timeout_s=5.0)) as breakers:
            shared = SharedRedis(connect(url, 5.0), "celeriac")
            with closing(shared):
                store, views = CircuitStore(shared), Views()
                store.version()
                return {
                    "refresh ms": _ms(lambda: views.refresh(views.snapshot(), store.index())),
                    "snapshots ms": _ms(breakers.snapshots),
                    "list s": _ms(lambda: _list(url)) / 1000,
                }

    return Contender("1 circuit" if count == 1 else f"{count:,} circuits", measure)


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _list(url: str) -> None:
    """The operator's command in a project of somebody else's."""
    subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "breaker", "list"],
        cwd=SHOP, env={**os.environ, "SHOP_REDIS": url.rpartition("/")[0]}, check=True, capture_output=True,
    )  # fmt: skip
