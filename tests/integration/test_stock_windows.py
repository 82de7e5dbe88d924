"""Prefetch windows, autoscaling, replaced children, beat and direct queues are as on stock Celery."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.nodenames import worker_direct

from tests.integration.stations_kit import Outcomes, Station, Stations

stations = Stations()
behaves = stations.behaves
TICK = {"task": "tasks.note", "schedule": 0.3, "args": ["beats"], "options": {"queue": "embedded_beat_and_own_queue"}}


@behaves([2, 3, 0], conf={"worker_disable_prefetch": True, "worker_prefetch_multiplier": 4})
def disabled_prefetch_reserves_nothing(station: Station) -> Any:
    station.hold(5)
    station.settled(began=2, queued=3)
    seen = [station.began, station.queued, len(station.ask("reserved"))]
    station.go()
    return seen


@behaves([[2, 0], 10], conf={"worker_prefetch_multiplier": 0}, args=["--max-tasks-per-child=1"])
def no_prefetch_limit_and_children_replaced(station: Station) -> Any:
    station.hold(10)
    station.settled(began=2, queued=0)
    seen = [station.began, station.queued]
    station.go()
    return [seen, len(station.pids())]


@behaves([2, 4, 6], conf={"worker_prefetch_multiplier": 4})
def window_is_multiplier_times_slots(station: Station) -> Any:
    station.hold(12)
    station.settled(began=2, queued=4)
    seen = [station.began, station.queued, len(station.until(lambda: station.ask("reserved"), "some are reserved"))]
    station.go()
    return seen


@behaves([3, 6], pool="threads", concurrency=3, conf={"worker_prefetch_multiplier": 1})
def window_of_threads(station: Station) -> Any:
    station.hold(9)
    station.settled(began=3, queued=6)
    seen = [station.began, station.queued]
    station.go()
    return seen


@behaves([4, 5], pool="gevent", concurrency=4, conf={"worker_prefetch_multiplier": 1})
def window_of_greenlets(station: Station) -> Any:
    station.hold(9)
    station.settled(began=4, queued=5)
    seen = [station.began, station.queued]
    station.go()
    return seen


@behaves([3, 1], args=["--autoscale=3,1"], env={"AUTOSCALE_KEEPALIVE": "0.5"}, conf={"worker_prefetch_multiplier": 2})
def pool_scales_up_under_load_and_down_again(station: Station) -> Any:
    station.hold(8)
    station.until(lambda: station.began == 3, "it scaled up")
    most = len(station.ask("stats")["pool"]["processes"])
    station.go()
    station.until(lambda: len(station.ask("stats")["pool"]["processes"]) == 1, "it scaled down")
    return [most, len(station.ask("stats")["pool"]["processes"])]


@behaves([True, ["[3]"]], args=["-B", "--schedule="], conf={"beat_schedule": {"tick": TICK}, "worker_direct": True})
def embedded_beat_and_own_queue(station: Station) -> Any:
    queue = worker_direct(station.host)
    options = {"queue": None, "exchange": queue.exchange.name, "routing_key": queue.routing_key, "declare": [queue]}
    station.send("note", station.key, 3, **options)
    station.until(
        lambda: len(station.side.ran("beats")) >= 2 and station.side.ran(station.key), "beat and message came"
    )
    return [len(station.side.ran("beats")) >= 2, station.side.ran(station.key)]


@behaves([2, 8, 8], concurrency=1, args=["--max-memory-per-child=1000"])
def two_workers_share_a_queue_and_children_too_big_are_replaced(station: Station) -> Any:
    station.another("b", concurrency=1).wait_ready(40)
    station.hold(8)
    station.until(lambda: station.began == 2, "both work")
    station.go()
    return [2, len(set(station.ran())), len(station.pids())]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return stations.run(tmp_path_factory.mktemp("windows"), list(stations.cases))


@pytest.mark.parametrize("name", stations.cases)
def test_it_comes_out_as_on_stock_celery(outcomes: Outcomes, name: str) -> None:
    stations.judge(outcomes, name)
