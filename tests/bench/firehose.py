"""One circuit that several processes feed with 5,000 outcomes a second: do they reach it, and what does Redis pay?"""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection

import pybreaker
import redis

from resilience import Breakers
from tests.bench.fleet import READY, fleet
from tests.bench.harness import Contender, Table, interleave
from tests.bench.peers import NEVER, Call, Dependency, Stage, policy

RATE = 5_000
NAME = "firehose"
_TICK_S = 0.005


def tables(stage: Stage) -> list[Table]:
    contenders = [
        Contender("celeriac, all succeed", partial(_round, stage, "celeriac", 0.0)),
        Contender("celeriac, 5 % fail", partial(_round, stage, "celeriac", 0.05)),
        Contender("celeriac, 50 % fail", partial(_round, stage, "celeriac", 0.5)),
        Contender("pybreaker, Redis, all succeed", partial(_round, stage, "pybreaker", 0.0)),
        Contender("pybreaker, Redis, 5 % fail", partial(_round, stage, "pybreaker", 0.05)),
    ]
    return [
        Table(
            f"One circuit, {RATE:,} outcomes/s asked for by {stage.size.feeders} processes",
            "Round trips and commands per second; Redis CPU as a share of one processor; process CPU per outcome.",
            interleave(contenders, stage.size.load_rounds, warm_up=False),
        )
    ]


def _round(stage: Stage, kind: str, failing: float) -> dict[str, float]:
    size = stage.size
    with fleet(size.feeders, feed, stage.url, kind, failing, RATE / size.feeders, size.load_s) as lines:
        before, began = stage.meter.look(), time.perf_counter()
        for line in lines:
            line.send("go")
        told = [line.recv() for line in lines]
        after, wall_s = stage.meter.look(), time.perf_counter() - began
    outcomes, cpu_s = sum(row[0] for row in told), sum(row[1] for row in told)
    return {
        "outcomes/s": outcomes / wall_s,
        "Redis CPU %": 100 * (after.cpu_s - before.cpu_s) / wall_s,
        "round trips/s": (after.reads - before.reads) / wall_s,
        "commands/s": (after.commands - before.commands) / wall_s,
        "process CPU us": cpu_s / max(1, outcomes) * 1e6,
    }


def feed(line: Connection, url: str, kind: str, failing: float, per_s: float, lasts_s: float) -> None:
    """A process: a steady stream of calls through the circuit; tells how many it made and its processor seconds."""
    good, bad = Dependency(), Dependency(failing=True)
    with closing(_Ours(url) if kind == "celeriac" else _Pybreaker(url)) as circuit:
        succeeds, fails = circuit.guard(good), circuit.guard(bad)
        succeeds()
        line.send(READY)
        line.recv()
        share = 0.0
        done, cpu_s, began = 0, time.process_time(), time.monotonic()
        while (passed_s := time.monotonic() - began) < lasts_s:
            for _ in range(int(passed_s * per_s) - done):
                share += failing
                if share >= 1.0:
                    share -= 1.0
                    _failing(fails)
                else:
                    succeeds()
                done += 1
                if time.monotonic() - began >= lasts_s:
                    break
            time.sleep(_TICK_S)
        line.send((done, time.process_time() - cpu_s))


def _failing(call: Call) -> None:
    try:
        call()
    except ConnectionError:
        return
    raise AssertionError("a call that fails was swallowed")


class _Ours:
    def __init__(self, url: str) -> None:
        self._breakers = Breakers.from_url(url, timeout_s=5.0)

    def guard(self, dependency: Dependency) -> Call:
        guarded: Call = self._breakers.circuit(NAME, policy(NEVER))(dependency.call)
        return guarded

    def close(self) -> None:
        self._breakers.close()


class _Pybreaker:
    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, self._client, namespace=NAME)
        self._breaker = pybreaker.CircuitBreaker(fail_max=1_000_000, state_storage=storage)

    def guard(self, dependency: Dependency) -> Call:
        return partial(self._breaker.call, dependency.call)

    def close(self) -> None:
        self._client.close()
