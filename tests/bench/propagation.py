"""How long until processes that make calls all the while refuse them, or route messages elsewhere, once a circuit was
opened in another.

One machine, one clock: CLOCK_MONOTONIC is the same for all its processes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import pybreaker
import redis
from celery import Celery

from resilience import BreakerPolicy, Breakers, CircuitOpenError, Resilience
from tests.bench.fleet import READY, fleet
from tests.bench.harness import Figure, Row, Table
from tests.bench.peers import Stage

NAME = "propagation"
OURS, ROUTER, GATE = "celeriac", "router", "gate"
_SEEN_WITHIN_S = 10.0
# one failure among however many successes opens it: a streak would need two failing workers
_LASTS: dict[str, Any] = {"failure_ratio": 1e-9, "minimum_calls": 1, "open_s": 600.0, "open_max_s": 600.0}
_PAUSES_S = {"1,000 calls/s each": 0.001, "flat out": 0.0}


class Circuit(Protocol):
    """The one circuit, as a process sees it."""

    def passes(self) -> bool:
        """Make a call through it: was it let through?"""

    def open(self) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None:
        """Let go of what it holds; says nothing about the circuit."""


def tables(stage: Stage) -> list[Table]:
    rows = tuple(
        Row(f"{kind}, {load}", _delays(stage, kind, {kind: stage.size.watchers}, pause_s))
        for load, pause_s in _PAUSES_S.items()
        for kind in (OURS, "pybreaker, Redis")
    )
    routes = tuple(
        Row(f"{OURS}, {load}", _delays(stage, OURS, {ROUTER: 2, GATE: 3}, pause_s))
        for load, pause_s in _PAUSES_S.items()
    )
    return [
        Table(
            "Two publishers and the doors of three workers agree on the route, once a circuit was opened",
            f"{stage.size.openings:,} openings; ms from the return of the call that opened the circuit to the first "
            "message that is sent elsewhere, in every process.",
            routes,
        ),
        Table(
            f"An opening is seen by {stage.size.watchers} processes that make calls in a loop",
            f"{stage.size.openings:,} openings; ms from the return of the call that opened the circuit to the first "
            "refused call, in every process. Below 0: seen before the opener itself came back. pybreaker asks Redis at "
            "every call.",
            rows,
        ),
    ]


def _delays(stage: Stage, kind: str, watchers: Mapping[str, int], pause_s: float) -> dict[str, Figure]:
    """All delays of all openings, one figure each for what is asked of them."""
    delays_ms: list[float] = []
    started_ms: list[float] = []
    with closing(_circuit(kind, stage.url)) as circuit, ExitStack() as fleets:
        circuit.reset()
        started = [fleets.enter_context(fleet(n, watch, who, stage.url, pause_s)) for who, n in watchers.items()]
        lines = list(chain.from_iterable(started))
        for _ in range(stage.size.openings):
            began = time.monotonic()
            circuit.open()
            opened = time.monotonic()
            seen = _heard(lines, "refused")
            delays_ms += [(at - opened) * 1000 for at in seen]
            started_ms += [(at - began) * 1000 for at in seen]
            circuit.reset()
            _heard(lines, "passes")
    return {**_quantiles("", delays_ms), **_quantiles("from its start: ", started_ms)}


def _quantiles(prefix: str, values: list[float]) -> dict[str, Figure]:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    figures = {"p50 ms": hundredths[49], "p99 ms": hundredths[98], "max ms": max(values)}
    return {prefix + name: Figure((value,)) for name, value in figures.items()}


def _heard(lines: list[Connection], word: str) -> list[float]:
    """When each process saw it; every one must say `word`, within a generous time."""
    times: dict[Connection, float] = {}
    until = time.monotonic() + _SEEN_WITHIN_S
    while len(times) < len(lines):
        spoken = wait([line for line in lines if line not in times], max(0.0, until - time.monotonic()))
        if not spoken:
            raise RuntimeError(f"{len(lines) - len(times)} processes did not see {word!r} in {_SEEN_WITHIN_S:g} s")
        for line in spoken:
            assert isinstance(line, Connection)
            said, times[line] = line.recv()
            assert said == word, f"{said} instead of {word}"
    return list(times.values())


def watch(line: Connection, kind: str, url: str, pause_s: float) -> None:
    """A process: calls all the while; tells when calls begin to be refused, or to pass again."""
    with closing(_circuit(kind, url)) as circuit:
        passing = circuit.passes()
        line.send(READY)
        while not line.poll():
            for _ in range(20):
                now_passing = circuit.passes()
                if now_passing != passing:
                    line.send(("passes" if now_passing else "refused", time.monotonic()))
                    passing = now_passing
                if pause_s:
                    time.sleep(pause_s)


def _circuit(kind: str, url: str) -> Circuit:
    if kind in (ROUTER, GATE):
        return _App(url, at_the_gate=kind == GATE)
    return _Ours(url) if kind == OURS else _Pybreaker(url)


def _nothing() -> None:
    """What the task does."""


class _App:
    """An application as its publishers see it, or its workers at their gate."""

    def __init__(self, url: str, at_the_gate: bool) -> None:
        self._app = Celery("bench", broker=url, set_as_current=False)
        Resilience(self._app)
        self._app.conf.update(resilience_circuits={NAME: _LASTS}, resilience_store_timeout_s=5.0)
        self._app.task(_nothing, name="bench", circuit=NAME, fallback=["fallback"], shared=False)
        self._app.finalize()
        self._at_the_gate = at_the_gate

    def passes(self) -> bool:
        if self._at_the_gate:
            return self._app.resilience.breakers.may_pass(NAME, ramp=True)
        return str(self._app.amqp.router.route({}, "bench")["queue"].name) == "celery"

    def open(self) -> None:
        self._app.resilience.breakers.record_failure(NAME)

    def reset(self) -> None:
        self._app.resilience.breakers.reset(NAME, actor="bench", reason="the next round")

    def close(self) -> None:
        self._app.resilience.breakers.close()
        self._app.close()


class _Ours:
    def __init__(self, url: str) -> None:
        self._breakers = Breakers.from_url(url, timeout_s=5.0, policies={NAME: BreakerPolicy(**_LASTS)})

    def passes(self) -> bool:
        try:
            self._breakers.admit(NAME).settle()
        except CircuitOpenError:
            return False
        return True

    def open(self) -> None:
        self._breakers.record_failure(NAME)

    def reset(self) -> None:
        self._breakers.reset(NAME, actor="bench", reason="the next round")

    def close(self) -> None:
        self._breakers.close()


class _Pybreaker:
    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, self._client, namespace=NAME)
        self._breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=600, state_storage=storage)

    def passes(self) -> bool:
        try:
            self._breaker.call(time.monotonic)
        except pybreaker.CircuitBreakerError:
            return False
        return True

    def open(self) -> None:
        self._breaker.open()

    def reset(self) -> None:
        self._breaker.close()

    def close(self) -> None:
        self._client.close()
