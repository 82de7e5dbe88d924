"""Workers of the project `forge`, each with a fire of its own that a test puts out and lights again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.testing import WorkerProcess, until

FORGE = Path(__file__).parent.parent / "foreign" / "forge"


class Forge:
    """A fleet, its book, its broker and a stock app that sends to it."""

    def __init__(self, url: str, log_dir: Path) -> None:
        self._url, self._log_dir = url, log_dir
        self.customers = Celery("customers", broker=f"{url}/0", backend=f"{url}/1", set_as_current=False)
        self.book = redis.Redis.from_url(f"{url}/2", decode_responses=True)
        self.broker = redis.Redis.from_url(f"{url}/0", decode_responses=True)
        self._started: list[WorkerProcess] = []

    def worker(
        self, name: str, *, pool: str = "prefork", concurrency: int = 2, queue: str = "celery", **env: str
    ) -> WorkerProcess:
        """A worker that boots; wait for it with `wait_ready`."""
        worker = WorkerProcess(
            FORGE, name, self._log_dir, pool=pool, concurrency=concurrency, queues=queue,
            env={"FORGE_REDIS": self._url, "FORGE_NAME": name, **env},
        )  # fmt: skip
        self._started.append(worker)
        worker.start()
        return worker

    def send(self, task: str, *numbers: int, queue: str = "celery") -> None:
        for number in numbers:
            self.customers.send_task(f"tasks.{task}", (number,), ignore_result=True, queue=queue)

    def forged(self, *names: str) -> list[int]:
        """What these workers did."""
        return sorted(int(number) for name in names for number in self.book.lrange(f"forged:{name}", 0, -1))

    def why_out(self, name: str) -> str:
        """What the registry says of a worker out of rotation; "" of one that takes tasks."""
        for key in self.broker.keys("celeriac:v1:worker:*"):
            record = self.broker.hgetall(key)
            if record.get("hostname") == f'"{name}@test"':
                return str(record.get("out_of_rotation") or '""').strip('"')
        return ""

    def until_out(self, name: str, why: str) -> None:
        until(lambda: why in self.why_out(name), what=f"{name} is out of rotation, and says: {why}")

    @property
    def queued(self) -> int:
        return int(self.broker.llen("celery"))

    def cut_connections(self) -> None:
        """Every connection to the broker's database but ours ends."""
        mine = self.broker.client_id()
        for client in self.broker.client_list():
            if client["db"] == "0" and int(client["id"]) != mine:
                self.broker.client_kill_filter(_id=client["id"])

    def close(self) -> None:
        for worker in self._started:
            worker.ask_to_stop()
        for worker in self._started:
            worker.stop()
        self.customers.close()
        self.book.close()
        self.broker.close()


@pytest.fixture
def forge(shop_redis: str, tmp_path: Path) -> Iterator[Forge]:
    fleet = Forge(shop_redis, tmp_path)
    yield fleet
    fleet.close()
