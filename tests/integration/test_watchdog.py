"""A worker that could work and hears nothing of what waits for it: it says so, is unhealthy, and connects anew."""

from __future__ import annotations

import time

import redis

from resilience.testing import until
from resilience.workers.watchdog import Look, Patience
from tests.integration.conftest import StartWorkers
from tests.integration.test_transport import ran, send, stock_app


def test_a_deaf_worker_is_unhealthy_and_heals_itself(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    (worker,) = workers({"name": "w"}, env={"SHOP_DEAF": "1", "RESILIENCE_STALL_S": "1"})
    (key,) = broker.keys("celeriac:v1:worker:*")
    send(stock_app(shop_redis), 0, 5)
    until(lambda: broker.hget(key, "stalled") == "true", what="others can see that it is stuck")
    until(lambda: set(ran(book)) == set(range(5)), what="it hears again on a new connection")
    assert "received nothing for 1 s, 5 messages wait" in worker.log()
    until(lambda: broker.hget(key, "stalled") == "false", what="and is healthy again")


def test_without_the_watchdog_it_stays_deaf(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "w"}, env={"SHOP_DEAF": "1", "RESILIENCE_STALL_S": "3600"})
    send(stock_app(shop_redis), 0, 5)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 4, what="four times what the other one takes")
    assert not ran(book)
    assert broker.llen("celery") == 5


def test_patience_runs_out_only_for_a_free_worker_that_received_nothing_all_the_time() -> None:
    patience = Patience(stall_s=10.0)
    assert not patience.run_out(Look(0.0, 5, free=True))
    assert not patience.run_out(Look(9.0, 5, free=True))
    assert not patience.run_out(Look(9.5, 5, free=False)), "it was at work: from here on anew"
    assert not patience.run_out(Look(19.0, 5, free=True))
    assert patience.run_out(Look(19.5, 5, free=True))
    patience.begin_anew(19.5)
    assert not patience.run_out(Look(29.0, 5, free=True))
    assert not patience.run_out(Look(30.0, 6, free=True)), "it received one"
    assert patience.run_out(Look(40.0, 6, free=True))
