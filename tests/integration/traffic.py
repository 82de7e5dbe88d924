"""A publisher process of the foreign project `bank`, at work until it is told to stop, and what came of its tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType

import redis

BANK = Path(__file__).parent.parent / "foreign" / "bank"


class Traffic:
    """`with Traffic(...) as traffic:` sends transfers `first`, `first + 1`, ... until the block ends."""

    def __init__(self, redis_url: str, *, first: int = 0, per_s: float = 30.0, count: int = 100_000) -> None:
        self._book = redis.Redis.from_url(f"{redis_url}/2", decode_responses=True)
        argv = [sys.executable, "publish.py", str(first), str(count), str(per_s)]
        env = {**os.environ, "BANK_REDIS": redis_url}
        self._process = subprocess.Popen(argv, cwd=BANK, env=env, stdin=-1, stdout=-1, text=True)
        self.found: dict[int, str] = {}
        self.unsure: set[int] = set()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Send no more, and wait for every answer."""
        told, _ = self._process.communicate("that is all\n", timeout=120)
        said = json.loads(told)
        self.found = {int(number): answer for number, answer in said["found"].items()}
        self.unsure = set(said["unsure"])

    def answers(self) -> list[str]:
        """What came of each task, in the order in which they were sent."""
        return [self.found[number] for number in sorted(self.found)]

    def last(self, count: int) -> list[str]:
        """Where the last tasks that ended well ran, as the book has it."""
        return [json.loads(row)[1] for row in self._book.lrange("ran", -count, -1)]

    def ran(self) -> Counter[int]:
        """How often each ended well, whoever sent it."""
        return Counter(json.loads(row)[0] for row in self._book.lrange("ran", 0, -1))
