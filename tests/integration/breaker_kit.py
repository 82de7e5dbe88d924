"""What the breaker tests share: Breakers as separate processes would make them, a Redis to break, other processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakMethod

import pytest

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.local.redis_server import RedisServer
from resilience.testing import RecordingSink
from signals.bus import Bus
from signals.events import Result

# A call waits at most this long for the store; the rest is room for a busy machine.
TIMEOUT_S = 0.25
BOUND_S = TIMEOUT_S + 0.25

SHORT = BreakerPolicy(consecutive_failures=5, open_s=0.2, open_max_s=5, jitter=0, ramp_s=0)
LONG = BreakerPolicy(consecutive_failures=5, open_s=60, jitter=0)

ROOT = Path(__file__).parents[2]

MakeBreakers = Callable[..., Breakers]


@pytest.fixture
def make(redis_url: str) -> Iterator[MakeBreakers]:
    """Make Breakers as separate processes would; all are closed at the end."""
    made: list[Breakers] = []

    def build(
        url: str = redis_url,
        policy: BreakerPolicy = LONG,
        sink: RecordingSink | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Breakers:
        bus = Bus()
        if sink is not None:
            bus.subscribe(sink)
        breakers = Breakers.from_url(url, timeout_s=timeout_s, policies={"a": policy, "b": policy}, bus=bus)
        made.append(breakers)
        return breakers

    yield build
    for breakers in made:
        breakers.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that a test may freeze and kill."""
    with RedisServer() as server:
        yield server


def fail(breakers: Breakers, times: int = 5, name: str = "a") -> None:
    for _ in range(times):
        breakers.record_failure(name)


def refused(breakers: Breakers, name: str = "a") -> bool:
    try:
        breakers.admit(name).settle(Result.NOTHING)
    except CircuitOpenError:
        return True
    return False


class Turns:
    """Counts the turns of the watcher's thread, which looks at the store twice a second."""

    def __init__(self, breakers: Breakers) -> None:
        self.seen = 0
        breakers._watcher.turns.append(WeakMethod(self._count))

    def _count(self) -> None:
        self.seen += 1


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A real other process that runs `code`; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def says(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()
