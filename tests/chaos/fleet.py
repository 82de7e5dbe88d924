"""The workers of a round: started, hit at random, started again as a supervisor would."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psutil
import redis

from resilience.testing import WorkerProcess
from tests.chaos.feeder import QUEUES
from tests.chaos.record import Blow

MILL = Path(__file__).parent.parent / "foreign" / "mill"
CODE = str(MILL.parents[2])
CONCURRENCY = {"prefork": 2, "threads": 4, "solo": 1}

_RESCUED_WITHIN_S = 3.0
_LOOK_EVERY_S = 0.03
_OWNER = re.compile(rb":(\d+):[0-9a-f]{8}(?::|$)")
_RECEIVED = re.compile(r"^\[([^:]*:\d+:\d+,\d+): .*\[job-(\d+)\] received", re.M)
_JOB = re.compile(rb'"id": ?"job-(\d+)"')


class Fleet:
    """Workers by name, one after another of `pools`. Every blow is written down in `blows`."""

    def __init__(
        self, pools: list[str], url: str, book_url: str, folder: Path, chance: random.Random, env: dict[str, str]
    ) -> None:
        self.blows: list[Blow] = []
        self.slots: dict[int, int] = {}
        self.pools = pools
        self._chance = chance
        self._broker = redis.Redis.from_url(f"{url}/0")
        path = os.pathsep.join((CODE, os.environ.get("PYTHONPATH", "")))  # the code that this campaign is part of
        environ = {"MILL_REDIS": url, "MILL_BOOK": book_url, "PYTHONPATH": path, **env}
        self.workers = [
            WorkerProcess(
                MILL,
                f"w{place}",
                folder,
                queues=",".join(QUEUES),
                pool=pool,
                concurrency=CONCURRENCY[pool],
                env=environ,
            )
            for place, pool in enumerate(pools)
        ]
        self._lives: list[tuple[WorkerProcess, int]] = []
        self._pids: list[int] = []
        self._ready: dict[int, float] = {}
        self._hurt: dict[int, float] = {}
        self._frozen_s: dict[int, float] = {}
        self._froze: list[tuple[int, float, float]] = []

    def start(self, place: int) -> None:
        worker = self.workers[place]
        self._lives.append((worker, worker.log_path.stat().st_size if worker.log_path.exists() else 0))
        worker.start()
        self._pids.append(worker.pid)
        self.slots[worker.pid] = CONCURRENCY[self.pools[place]]

    def ready(self) -> list[int]:
        """Places of the workers that have said that they are ready."""
        for worker in self.workers:
            if worker.pid not in self._ready and " ready." in worker.log():
                self._ready[worker.pid] = time.time()
        return [place for place, worker in enumerate(self.workers) if worker.pid in self._ready]

    def crashed(self) -> list[str]:
        """Workers that ended without having been hit."""
        return [
            f"{worker.name} ({self.pools[place]}, pid {worker.pid}) ended by itself: {worker.log()[-1500:]}"
            for place, worker in enumerate(self.workers)
            if not psutil.pid_exists(worker.pid) or psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE
        ]

    # -- blows -----------------------------------------------------------------------------------------------------

    def strike(self) -> int:
        """One blow, or several at once, somewhere; returns how many SIGKILLs it was."""
        place = self._chance.randrange(len(self.workers))
        ways: list[tuple[Callable[[int], int], int]] = [
            (self._kill_main, 30), (self._kill_group, 20), (self._kill_two, 12), (self._kill_all, 5),
            (self._freeze, 12), (self._freeze_then_kill, 8), (self._stop_then_kill, 14), (self._stop_twice, 4),
            (self._quit, 5),
        ]  # fmt: skip
        if self.pools[place] == "prefork":
            ways.append((self._kill_child, 60))
        way = self._chance.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
        return way(place)

    def _kill_main(self, place: int) -> int:
        return self._kill([place], "main")

    def _kill_group(self, place: int) -> int:
        return self._kill([place], "group")

    def _kill_two(self, place: int) -> int:
        return self._kill([place, (place + 1) % len(self.workers)], "main")

    def _kill_all(self, _place: int) -> int:
        return self._kill(list(range(len(self.workers))), "group")

    def _kill_child(self, place: int) -> int:
        worker = self.workers[place]
        children = [child for child in worker.children() if child.status() != psutil.STATUS_ZOMBIE]
        if worker.pid not in self._ready or not children:
            return self._kill_main(place)
        victim = self._chance.choice(children)
        began = time.time()
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        _wait_gone(victim.pid)
        self.blows.append(Blow("child", worker.pid, victim.pid, began, time.time()))
        return 1

    def _freeze(self, place: int) -> int:
        """No death: everybody waits for a worker that stands still for less than the long lease."""
        worker = self.workers[place]
        frozen_s = self._chance.uniform(0.2, 3.0)
        whole = self._chance.random() < 0.5
        _signal(worker.pid, signal.SIGSTOP, whole)
        time.sleep(frozen_s)
        _signal(worker.pid, signal.SIGCONT, whole)
        self._frozen_s[worker.pid] = self._frozen_s.get(worker.pid, 0.0) + frozen_s
        self._froze.append((worker.pid, time.time() - frozen_s, time.time()))
        return 0

    def _freeze_then_kill(self, place: int) -> int:
        worker = self.workers[place]
        frozen_s = self._chance.uniform(0.2, 3.0)
        _signal(worker.pid, signal.SIGSTOP, False)
        time.sleep(frozen_s)
        self._frozen_s[worker.pid] = self._frozen_s.get(worker.pid, 0.0) + frozen_s
        self._froze.append((worker.pid, time.time() - frozen_s, time.time()))
        return self._kill([place], "main")

    def _stop_then_kill(self, place: int) -> int:
        return self._stop(place, signal.SIGTERM, times=1)

    def _stop_twice(self, place: int) -> int:
        return self._stop(place, signal.SIGTERM, times=2)

    def _quit(self, place: int) -> int:
        return self._stop(place, signal.SIGQUIT, times=1)

    def _stop(self, place: int, sig: signal.Signals, times: int) -> int:
        """Ask it to stop; SIGKILL if it is not gone at a random instant later."""
        worker = self.workers[place]
        if worker.pid not in self._ready:
            return self._kill_main(place)
        kind = "quit" if sig is signal.SIGQUIT else "stop"
        began = time.time()
        held = self._held(worker.pid)
        for _ in range(times):
            os.kill(worker.pid, sig)
            time.sleep(0.05)
        held |= self._held(worker.pid)
        until = time.monotonic() + self._chance.choice((self._chance.uniform(0.0, 0.5), 8.0))
        while time.monotonic() < until and _runs(worker.pid):
            time.sleep(0.01)
        stopped = not _runs(worker.pid)
        blow = Blow(kind, worker.pid, worker.pid, began, time.time(), held, kills=0, rescued=False)
        self.blows.append(blow)
        if not stopped:
            return self._kill([place], "main")
        worker.kill(signal.SIGKILL)  # reaps it
        self.start(place)
        return 0

    def _kill(self, places: list[int], kind: str) -> int:
        """SIGKILL of main processes, or of whole process groups, as nearly at once as can be."""
        pids = [self.workers[place].pid for place in places]
        families = {pid: psutil.Process(pid).children(recursive=True) for pid in pids}
        began = time.time()
        for pid in pids:
            _signal(pid, signal.SIGKILL, kind == "group")
        for place in places:
            self.workers[place].kill()
        over = time.time()
        held = {pid: self._held(pid) for pid in pids}
        for pid in pids:
            for child in families[pid]:
                _wait_gone(child.pid)
        time.sleep(0.1)  # what it had sent before its end may only now have reached its keys
        for pid in pids:
            self.blows.append(
                Blow(kind, pid, pid, began, over, held[pid] | self._held(pid), frozen_s=self._frozen_s.get(pid, 0.0))
            )
            self._hurt[pid] = over
        for place in places:
            self.start(place)
        return len(pids)

    def judged(self) -> tuple[Blow, ...]:
        """All blows; `rescued` says whether a ready worker was there and stayed for the seconds that mattered."""
        return tuple(replace(blow, rescued=self._rescued(blow)) for blow in self.blows)

    def _rescued(self, blow: Blow) -> bool:
        gone = {other.main: other.began for other in self.blows if other.kind != "child"}
        safe_until = blow.over + _RESCUED_WITHIN_S
        frozen = {pid for pid, since, until in self._froze if since < safe_until and until > blow.began}
        return blow.rescued and any(
            pid != blow.main and pid not in frozen and at < blow.began and gone.get(pid, float("inf")) > safe_until
            for pid, at in self._ready.items()
        )

    # -- the broker's word -----------------------------------------------------------------------------------------

    def _held(self, pid: int) -> frozenset[int]:
        """The jobs that the broker has down as this worker's."""
        found: set[int] = set()
        for key in cast("list[bytes]", self._broker.keys(f"*:{pid}:*")):
            if b":worker:" not in key:
                found |= numbers_in(contents(self._broker, key))
        return frozenset(found)

    def stop(self) -> list[str]:
        """A warm stop of everybody; a sentence for each that did not end well."""
        crashed = self.crashed()
        for worker in self.workers:
            worker.ask_to_stop()
        for worker in self.workers:
            _wait_gone(worker.pid, within_s=20.0)
        codes = [(worker, worker.stop(grace_s=1.0)) for worker in self.workers]
        self._broker.close()
        return crashed + [
            f"{worker.name} ended its warm stop with {code}: {worker.log()[-1500:]}"
            for worker, code in codes
            if code != 0 and not any(worker.name in sentence for sentence in crashed)
        ]

    def received(self) -> Iterator[tuple[int, int, float]]:
        """(worker, job, when) of every message that a worker says it received."""
        for place, ((worker, begins), pid) in enumerate(zip(self._lives, self._pids, strict=True)):
            next_life = next((other for who, other in self._lives[place + 1 :] if who is worker), None)
            text = worker.log_path.read_bytes()[begins:next_life].decode("utf-8", "replace")
            for when, number in _RECEIVED.findall(text):
                yield pid, int(number), at_of(when)

    def logs(self) -> dict[str, str]:
        return {worker.name: worker.log_path.read_text("utf-8", "replace") for worker in self.workers}


class Watcher(threading.Thread):
    """Looks often at what each worker holds: `seen`: by job and worker's main pid, when it was first seen there."""

    def __init__(self, url: str) -> None:
        super().__init__(name="watcher", daemon=True)
        self.seen: dict[int, dict[int, float]] = {}
        self._broker = redis.Redis.from_url(f"{url}/0")
        self._over = threading.Event()

    def run(self) -> None:
        with self._broker:
            while not self._over.wait(_LOOK_EVERY_S):
                for key in cast("list[bytes]", self._broker.keys("*")):
                    owner = _OWNER.search(key)
                    if owner is not None and b":worker:" not in key:
                        at = time.time()
                        for number in numbers_in(contents(self._broker, key)):
                            self.seen.setdefault(number, {}).setdefault(int(owner[1]), at)

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """May be called again."""
        self._over.set()
        self.join()


def at_of(when: str) -> float:
    """Unix time of a line in a worker's log."""
    return datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def contents(client: Any, key: bytes) -> list[bytes]:
    """Everything in a key, whatever its type."""
    kind = client.type(key)
    if kind == b"list":
        return cast("list[bytes]", client.lrange(key, 0, -1))
    if kind == b"hash":
        return [part for pair in client.hgetall(key).items() for part in pair]
    if kind == b"zset":
        return cast("list[bytes]", client.zrange(key, 0, -1))
    if kind == b"set":
        return list(client.smembers(key))
    return [client.get(key) or b""] if kind == b"string" else []


def numbers_in(texts: list[bytes]) -> set[int]:
    """Numbers of the jobs whose messages are among these texts."""
    return {int(number) for text in texts for number in _JOB.findall(text)}


def _signal(pid: int, sig: signal.Signals, whole: bool) -> None:
    with suppress(ProcessLookupError):
        if whole:
            os.killpg(pid, sig)  # a worker is started as the leader of a session
        else:
            os.kill(pid, sig)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_gone(pid: int, within_s: float = 10.0) -> None:
    """Until it runs no more; its parent may not have asked for its exit code yet."""
    until = time.monotonic() + within_s
    while time.monotonic() < until and _runs(pid):
        time.sleep(0.002)
