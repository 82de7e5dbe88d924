"""`worker_cancel_long_running_tasks_on_connection_loss`: what runs is ended, and runs again at once, not in an hour."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import redis

from resilience.local.redis_server import RedisServer
from tests.integration.works_kit import Side

CONF = {"worker_cancel_long_running_tasks_on_connection_loss": True, "worker_prefetch_multiplier": 2}


def cut_off(broker: redis.Redis) -> None:
    """Cut every connection to the broker's database but this one."""
    mine = broker.client_id()
    for client in broker.client_list(_type="normal"):
        if client["db"] == "0" and int(client["id"]) != mine:
            broker.client_kill_filter(_id=client["id"])


def test_tasks_that_are_cancelled_with_their_connection_run_again(tmp_path: Path) -> None:
    with RedisServer() as server, closing(Side(server.port, 0, False, "prefork", tmp_path)) as side:
        worker = side.worker(conf=CONF)
        worker.wait_ready(40)
        for number in range(4):
            side.send("hold", "held", number, ignore_result=True)
        side.until(lambda: side.began("held") == 2 and side.queued() == 0, "two run, two are held")
        running = set(side.numbers("held"))
        cut_off(side.broker)
        side.until(lambda: worker.log().count("Terminating it instead") == 2, "both are cancelled")
        side.go("held")
        side.until(lambda: len(set(side.ran("held"))) == 4, "all ran", 30)
        assert sorted(map(int, side.ran("held"))) == [0, 1, 2, 3], "each to its end once"
        assert set(side.numbers("held")[2:]) >= running, "those that were cancelled began again"
