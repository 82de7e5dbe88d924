"""A fleet of real processes with Breakers of their own, told what to do over pipes, all at once.

The processes are forked by multiprocessing's forkserver, which has imported `resilience` once: twenty of them start in
the time of one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

from resilience import BreakerPolicy, Breakers, CircuitOpenError
from resilience.breaker.permit import Permit
from resilience.testing import RecordingSink
from signals.bus import Bus
from signals.events import CircuitChanged, Result

_ANSWERS_WITHIN_S = 30.0

_forkserver = multiprocessing.get_context("forkserver")
# pytest is the main module of whoever starts the fleet, and would be imported in each process
_forkserver.set_forkserver_preload([__name__, "resilience.breaker.guard", "pytest"])


class Deeds:
    """What a member does when it is told to; every answer can be pickled."""

    def __init__(self, url: str, policy: BreakerPolicy) -> None:
        self.sink, self.held = RecordingSink(), list[Permit]()
        bus = Bus()
        bus.subscribe(self.sink)
        self.breakers = Breakers.from_url(url, policies={"a": policy}, bus=bus)

    def calls(self, pattern: str) -> None:
        """A call per letter: x fails, anything else succeeds; refused ones are left out."""
        for letter in pattern:
            with suppress(TimeoutError, CircuitOpenError), self.breakers.circuit("a"):
                if letter == "x":
                    raise TimeoutError
        self.breakers.flush()

    def admit(self, lease_s: float | None = None) -> bool:
        """Take a permit and keep it."""
        try:
            self.held.append(self.breakers.admit("a", lease_s=lease_s))
        except CircuitOpenError:
            return False
        return True

    def settle(self, result: str = Result.SUCCESS.value) -> None:
        """Settle every permit that is kept."""
        while self.held:
            self.held.pop().settle(Result(result))

    def refused(self) -> bool:
        try:
            self.breakers.admit("a").settle(Result.NOTHING)
        except CircuitOpenError:
            return True
        return False

    def may_pass(self) -> bool:
        return self.breakers.may_pass("a")

    def changes(self) -> list[tuple[str, str]]:
        """The transitions that this process said."""
        return [(event.old, event.new) for event in self.sink.of(CircuitChanged)]

    def reasons(self) -> list[str]:
        return [event.reason for event in self.sink.of(CircuitChanged)]


def _serve(url: str, policy: Mapping[str, Any], orders: Connection) -> None:
    deeds = Deeds(url, BreakerPolicy.model_validate(policy))
    orders.send("ready")
    with suppress(EOFError):
        while True:
            deed, arguments = orders.recv()
            orders.send(getattr(deeds, deed)(*arguments))
    deeds.breakers.close()


class Member:
    """One process of the fleet."""

    def __init__(self, url: str, policy: BreakerPolicy) -> None:
        self._pipe, end = multiprocessing.Pipe()
        self.process: ForkServerProcess = _forkserver.Process(
            target=_serve, args=(url, policy.model_dump(exclude_defaults=True), end), daemon=True
        )
        self.process.start()
        end.close()

    def tell(self, deed: str, *arguments: object) -> None:
        """Let it begin; `answer()` waits for the end."""
        self._pipe.send((deed, arguments))

    def answer(self) -> Any:
        assert self._pipe.poll(_ANSWERS_WITHIN_S), f"process {self.process.pid} does not answer"
        return self._pipe.recv()

    def ask(self, deed: str, *arguments: object) -> Any:
        self.tell(deed, *arguments)
        return self.answer()

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def close(self) -> None:
        """Let it end by itself; kill it if it does not."""
        self._pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.kill()
        self.process.close()


class Fleet:
    """Members that all do the same at the same time."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def ask(self, deed: str, *arguments: object) -> list[Any]:
        """Every member's answer; all were told before the first was waited for."""
        for member in self.members:
            member.tell(deed, *arguments)
        return [member.answer() for member in self.members]

    def changes(self) -> list[tuple[str, str]]:
        """The transitions said on all buses of the fleet."""
        return [change for changes in self.ask("changes") for change in changes]


@contextmanager
def fleet(url: str, policy: BreakerPolicy, size: int) -> Iterator[Fleet]:
    members = [Member(url, policy) for _ in range(size)]
    try:
        assert [member.answer() for member in members] == ["ready"] * size
        yield Fleet(members)
    finally:
        for member in members:
            member.close()
