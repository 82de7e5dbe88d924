"""How long until processes that make calls all the while refuse them, once a circuit was opened elsewhere.

One machine, one clock: CLOCK_MONOTONIC is the same for all its processes.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from multiprocessing.connection import Connection, wait
from typing import Protocol

import pybreaker
import redis

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from tests.bench.fleet import READY, fleet
from tests.bench.harness import Figure, Row, Table
from tests.bench.peers import Stage

NAME = "propagation"
_SEEN_WITHIN_S = 10.0
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
        Row(f"{kind}, {load}", _delays(stage, kind, pause_s))
        for load, pause_s in _PAUSES_S.items()
        for kind in ("celeriac", "pybreaker, Redis")
    )
    return [
        Table(
            f"An opening is seen by {stage.size.watchers} processes that make calls in a loop",
            f"{stage.size.openings:,} openings; ms from the return of the call that opened the circuit to the first "
            "refused call, in every process. Below 0: seen before the opener itself came back. pybreaker asks Redis at "
            "every call.",
            rows,
        )
    ]


def _delays(stage: Stage, kind: str, pause_s: float) -> dict[str, Figure]:
    """All delays of all openings, one figure each for what is asked of them."""
    delays_ms: list[float] = []
    started_ms: list[float] = []
    with closing(_circuit(kind, stage.url)) as circuit:
        circuit.reset()
        with fleet(stage.size.watchers, watch, kind, stage.url, pause_s) as lines:
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
    return _Ours(url) if kind == "celeriac" else _Pybreaker(url)


class _Ours:
    def __init__(self, url: str) -> None:
        # one failure among however many successes opens it: a streak would need two failing workers
        lasts = BreakerPolicy(failure_ratio=1e-9, minimum_calls=1, open_s=600.0, open_max_s=600.0)
        self._breakers = Breakers.from_url(url, timeout_s=5.0, policies={NAME: lasts})

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
