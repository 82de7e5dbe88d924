"""Behaviours that need a worker of their own: each has a queue, one worker of ours and one of stock Celery."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess
from tests.integration.works_kit import OURS, STOCK, Side

Outcomes = dict[tuple[str, str], Any]
"""By side and script."""


class Station:
    """One script's place on one side: its queue, and the workers that serve it."""

    def __init__(self, side: Side, name: str, options: Mapping[str, Any]) -> None:
        self.side = side
        self.queue = self.key = name
        self._options = dict(options)
        self._held = 0
        self.worker = self.another("a")

    def another(self, letter: str, **options: Any) -> WorkerProcess:
        """One more worker of the same kind, booting."""
        known = dict(self._options)
        # a file of beat's schedule each, should it be asked for
        args = [f"{word}{self.side.log_dir}/{self.queue}-{self.side.name}" if word == "--schedule=" else word
                for word in known.pop("args", ())]  # fmt: skip
        return self.side.worker(f"{self.queue}-{letter}", **{"queues": self.queue, "args": args, **known, **options})

    @property
    def host(self) -> str:
        return f"{self.worker.name}@test"

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.side.send(task, *args, **{"queue": self.queue, "ignore_result": True, **options})

    def hold(self, count: int) -> None:
        """So many tasks that run until `go`, numbered. No results: threads share the sender."""
        for number in range(self._held, self._held + count):
            self.send("hold", self.key, number)
        self._held += count

    def go(self) -> None:
        """Let the holding tasks end, and wait for all of them."""
        self.side.go(self.key)
        self.until(lambda: len(set(self.ran())) == self._held, "all ran")

    def pids(self) -> set[str]:
        """The processes in which they ran."""
        return {str(pid) for pid in self.side.book.lrange(f"pids:{self.key}", 0, -1)}

    @property
    def began(self) -> int:
        return self.side.began(self.key)

    @property
    def queued(self) -> int:
        return self.side.queued(self.queue)

    def ran(self) -> list[int]:
        return [int(number) for number in self.side.ran(self.key)]

    def ask(self, what: str) -> Any:
        inspect = self.side.app.control.inspect([self.host], timeout=3.0, limit=1)
        return (getattr(inspect, what)() or {}).get(self.host)

    def until(self, condition: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
        return self.side.until(condition, f"{self.side.name} {self.key}: {what}", within_s)

    def settled(self, began: int, queued: int) -> None:
        """Wait until so many run and so many are left on the queue, and a second worker's look would find the same."""
        self.until(lambda: (self.began, self.queued) == (began, queued), f"{began} run and {queued} are queued")


@dataclass(frozen=True)
class Case:
    """`ours`: what the middleware makes of it where that is better than stock, else the same."""

    script: Callable[[Station], Any]
    outcome: Any
    ours: Any
    options: Mapping[str, Any]


class Stations:
    """The scripts of one module. `run` gives every outcome, by side and script."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def behaves(
        self, outcome: Any, ours: Any = None, **options: Any
    ) -> Callable[[Callable[[Station], Any]], Callable[[Station], Any]]:
        """`options` are those of its workers (see `Side.worker`)."""

        def add(script: Callable[[Station], Any]) -> Callable[[Station], Any]:
            self.cases[script.__name__] = Case(script, outcome, outcome if ours is None else ours, options)
            return script

        return add

    def run(self, log_dir: Path, names: list[str]) -> Outcomes:
        """These scripts on both sides, all at once."""
        outcomes: Outcomes = {}
        with ExitStack() as stack:
            server = stack.enter_context(RedisServer())
            stack.callback(gc.collect)
            both = [
                Side(server.port, number, name == STOCK, "prefork", log_dir)
                for number, name in enumerate((OURS, STOCK))
            ]
            for side in both:
                stack.callback(side.close)
            stations = [(side, name, Station(side, name, self.cases[name].options)) for name in names for side in both]
            threads = [threading.Thread(target=self._one, args=(outcomes, *each)) for each in stations]
            for _, _, station in stations:
                station.worker.wait_ready(60)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return outcomes

    def _one(self, outcomes: Outcomes, side: Side, name: str, station: Station) -> None:
        try:
            outcomes[side.name, name] = self.cases[name].script(station)
        except Exception as error:  # noqa: BLE001  the error is the outcome, and the test shows it
            outcomes[side.name, name] = f"failed: {error!r}"

    def judge(self, outcomes: Outcomes, name: str) -> None:
        case = self.cases[name]
        stock, ours = outcomes[STOCK, name], outcomes[OURS, name]
        assert stock == case.outcome, f"stock Celery itself does not: {stock!r}"
        assert ours == case.ours, f"stock: {stock!r}; ours: {ours!r}"
