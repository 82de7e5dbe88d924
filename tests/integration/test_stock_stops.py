"""Warm, cold and soft shutdowns end as on stock Celery: what runs, what goes back, the exit code, nothing lost."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import redis
from celery import Celery

from resilience.testing import WorkerProcess, until
from tests.integration.conftest import StartWorkers
from tests.integration.stations_kit import Outcomes, Station, Stations

stations = Stations()
behaves = stations.behaves
TWICE = {"worker_prefetch_multiplier": 2}
SOFT = {"worker_soft_shutdown_timeout": 1.5, "worker_enable_soft_shutdown_on_idle": True}


def ended(station: Station, worker: WorkerProcess) -> int:
    """The exit code of a worker that was told to end."""
    return int(station.until(lambda: worker.exit_code is not None and (worker.exit_code,), "it ended", 30)[0])


def elsewhere(station: Station) -> list[int]:
    """What a second worker then runs, in its order."""
    before = len(station.ran())
    station.another("b", pool="solo", concurrency=1).wait_ready(60)
    station.go()
    return station.ran()[before:]


BACK = [3, 2, 4, 5, 6]  # stock Celery gives back what it had reserved in the wrong order


@behaves(
    {"code": 0, "ran": [0, 1], "elsewhere": BACK}, {"code": 0, "ran": [0, 1], "elsewhere": [2, 3, 4, 5, 6]}, conf=TWICE
)
def warm_stop_ends_what_runs(station: Station) -> Any:
    station.hold(7)
    station.settled(began=2, queued=3)
    station.worker.kill(signal.SIGTERM)
    station.until(lambda: "Warm shutdown" in station.worker.log(), "it is being stopped")
    station.side.go(station.key)
    code = ended(station, station.worker)
    return {"code": code, "ran": sorted(station.ran()), "elsewhere": elsewhere(station)}


@behaves({"code": 0, "ran": [0], "elsewhere": [1, 2, 3]}, conf=TWICE, pool="solo", concurrency=1)
def warm_stop_of_a_solo_worker(station: Station) -> Any:
    station.hold(4)
    station.until(lambda: station.began == 1, "one runs")
    station.worker.kill(signal.SIGTERM)
    station.until(lambda: "Warm shutdown" in station.worker.log(), "it is being stopped")
    station.side.go(station.key)
    code = ended(station, station.worker)
    return {"code": code, "ran": station.ran(), "elsewhere": elsewhere(station)}


@behaves({"code": 0, "each once": [0, 1, 2, 3, 4, 5, 6]}, conf=TWICE, pool="threads")
def warm_stop_of_threads(station: Station) -> Any:
    station.hold(7)
    station.settled(began=2, queued=3)
    station.worker.kill(signal.SIGTERM)
    station.until(lambda: "Warm shutdown" in station.worker.log(), "it is being stopped")
    station.side.go(station.key)
    code = ended(station, station.worker)
    ran = station.ran()  # with what waits inside the pool or without it: that is a race, in stock Celery too
    return {"code": code, "each once": sorted([*ran, *elsewhere(station)])}


@behaves({"ran": [], "elsewhere": [0, 1, 2, 3, 4, 5, 6]}, conf=TWICE)
def cold_stop_gives_everything_back(station: Station) -> Any:
    station.hold(7)
    station.settled(began=2, queued=3)
    station.worker.kill(signal.SIGQUIT)
    ended(station, station.worker)
    return {"ran": station.ran(), "elsewhere": sorted(elsewhere(station))}


@behaves({"ran": [], "elsewhere": [0, 1, 2, 3]}, conf=TWICE, env={"REMAP_SIGTERM": "SIGQUIT"})
def remapped_stop_is_cold(station: Station) -> Any:
    station.hold(4)
    station.settled(began=2, queued=0)
    station.worker.kill(signal.SIGTERM)
    ended(station, station.worker)
    return {"ran": station.ran(), "elsewhere": sorted(elsewhere(station))}


@behaves({"short": 1, "long": [], "elsewhere": [0]}, conf=SOFT)
def soft_stop_waits_for_short_tasks(station: Station) -> Any:
    station.send("hold", "short")
    station.hold(1)
    station.until(lambda: station.began == 1 and station.side.began("short") == 1, "both run")
    station.worker.kill(signal.SIGQUIT)
    station.until(lambda: "Initiating Soft Shutdown" in station.worker.log(), "it waits for short tasks")
    station.side.go("short")
    ended(station, station.worker)
    return {"short": len(station.side.ran("short")), "long": station.ran(), "elsewhere": elsewhere(station)}


@behaves({"code": 0, "left": 5, "elsewhere": BACK}, {"code": 0, "left": 5, "elsewhere": [2, 3, 4, 5, 6]}, conf=TWICE)
def shutdown_by_remote_control(station: Station) -> Any:
    station.hold(7)
    station.settled(began=2, queued=3)
    station.side.app.control.shutdown(destination=[station.host])
    station.until(lambda: "Got shutdown from remote" in station.worker.log(), "it was told")
    station.side.go(station.key)
    code = ended(station, station.worker)
    return {"code": code, "left": station.queued, "elsewhere": elsewhere(station)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return stations.run(tmp_path_factory.mktemp("stops"), list(stations.cases))


def test_what_was_reserved_goes_back_while_the_stopped_worker_still_works(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    """A deploy in which one task runs for an hour must not keep its neighbours for that hour."""
    (worker,) = workers({"name": "w"})
    with Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app:
        for number in range(7):
            app.send_task("tasks.hold", (number,), ignore_result=True)
    until(lambda: book.llen("began") == 2 and broker.llen("celery") == 3, what="two run, two are reserved")
    worker.ask_to_stop()
    until(lambda: broker.llen("celery") == 5, what="what was reserved is back")
    assert worker.exit_code is None
    book.set("go", "1")
    workers({"name": "other"}, pool="solo", concurrency=1)
    until(lambda: book.llen("ran") == 7, what="all ran")
    order = [int(number) for number in book.lrange("ran", 0, -1)]
    assert [number for number in order if number > 1] == [2, 3, 4, 5, 6]


def test_nothing_moves_to_a_stopped_worker_that_had_room(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    """It waited for messages on the server, which would go on handing them over while its last task runs."""
    (worker,) = workers({"name": "w"}, pool="threads")
    with Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app:
        app.send_task("tasks.hold", (0,), ignore_result=True)
        until(
            lambda: book.llen("began") == 1 and broker.info("clients")["blocked_clients"] > 1, what="it waits for more"
        )
        worker.ask_to_stop()
        until(lambda: "Warm shutdown" in worker.log(), what="it is being stopped")
        for number in range(1, 4):
            app.send_task("tasks.note", (number,), ignore_result=True)
    until(lambda: broker.llen("celery") == 3, what="they are for others")
    assert worker.exit_code is None
    book.set("go", "1")


def test_a_message_that_moved_while_the_worker_said_goodbye_is_not_forgotten_with_it(
    shop_redis: str, broker: redis.Redis, workers: StartWorkers
) -> None:
    (worker,) = workers({"name": "w"})
    until(lambda: broker.info("clients")["blocked_clients"] > 1, what="it waits for messages")
    (claims,) = broker.keys("*:claims:*")
    broker.lpush(claims.replace(":claims:", ":wait:") + ":celery", "moved, and its reply lost")
    assert worker.stop() == 0
    assert broker.lrange("celery", 0, -1) == ["moved, and its reply lost"]


@pytest.mark.parametrize("name", stations.cases)
def test_it_ends_as_on_stock_celery(outcomes: Outcomes, name: str) -> None:
    stations.judge(outcomes, name)
