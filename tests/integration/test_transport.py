"""Workers on the owned transport: kills at any instant, cut connections, flushed scripts and stops lose nothing."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Any

import pytest
import redis
from celery import Celery

from resilience.delivery.turns import OVERDUE_S
from resilience.testing import WorkerProcess, until
from tests.claims import claimed
from tests.integration.conftest import StartWorkers


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENCE_TRANSPORT_ENABLED", "true")


def stock_app(url: str) -> Celery:
    """A publisher that knows nothing of the middleware."""
    return Celery("stock", broker=f"{url}/0", set_as_current=False)


def send(app: Celery, first: int, count: int, task: str = "tasks.note", **options: object) -> None:
    for number in range(first, first + count):
        app.send_task(task, (number,), ignore_result=True, **options)


def ran(book: redis.Redis) -> Counter[int]:
    return Counter(int(number) for number in book.lrange("ran", 0, -1))


LONG = 4


def let_pass(seconds: float) -> None:
    """The story needs the time itself: a task that is long, a lease that is over."""
    since = time.monotonic()
    until(lambda: time.monotonic() - since > seconds, what="time passes")


def short_ones_and_a_long(url: str) -> Celery:
    """A solo worker takes one, and then, as it was short, four at once: with the long one its window is at its end."""
    app = stock_app(url)
    send(app, 0, LONG)
    send(app, LONG, 1, task="tasks.hold")
    return app


def inside_the_long_one(workers: StartWorkers, book: redis.Redis, **options: Any) -> WorkerProcess:
    """A solo worker in the last task of a window."""
    (worker,) = workers({"name": "solo"}, pool="solo", concurrency=2, **options)
    until(lambda: book.llen("began") == 1, what="the last of the window runs")
    return worker


def test_a_message_that_an_idle_frozen_worker_got_runs_elsewhere(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    """The server moves it to the frozen worker, which waits for it; its death gives it back."""
    (idle,) = workers({"name": "idle"})
    until(lambda: broker.info("clients")["blocked_clients"] >= 1, what="it waits idly")
    idle.kill(signal.SIGSTOP)
    send(stock_app(shop_redis), 0, 1)
    until(lambda: broker.llen("celery") == 0, what="the frozen worker has got it")
    idle.kill()
    workers({"name": "other"})
    until(lambda: ran(book) == Counter({0: 1}), what="the task ran elsewhere")


def test_what_a_solo_worker_took_runs_elsewhere_while_it_is_inside_a_long_task(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    """Also what it asked for ahead of the last task of its window, the answer to which it cannot read meanwhile."""
    app = short_ones_and_a_long(shop_redis)
    send(app, LONG + 1, 6)
    inside_the_long_one(workers, book)
    until(lambda: claimed(broker) == 4, what="it holds three more than it can begin")
    workers({"name": "other"})
    until(lambda: ran(book) == Counter({*range(LONG), *range(LONG + 1, 11)}), what="all others ran elsewhere")
    book.set("go", "1")
    until(lambda: ran(book) == Counter(range(11)) and claimed(broker) == 0, what="the long one ends, and is told")
    send(app, 11, 40)
    until(lambda: ran(book) == Counter(range(51)), what="both go on, and nothing ran twice")


def test_what_ended_is_told_before_the_first_task_of_an_answer_that_was_asked_for_ahead(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    app = short_ones_and_a_long(shop_redis)
    app.send_task("tasks.massacre", ignore_result=True)
    inside_the_long_one(workers, book)
    let_pass(0.2)
    book.set("go", "1")
    until(lambda: book.llen("killed") == 1, what="the next one killed the worker")
    assert ran(book) == Counter(range(LONG + 1))
    assert claimed(broker) == 1, "only the one that did it"


def test_after_a_long_task_a_solo_worker_reads_what_it_asked_for_ahead(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    app = short_ones_and_a_long(shop_redis)
    inside_the_long_one(workers, book)
    let_pass(OVERDUE_S + 0.5)
    book.set("go", "1")
    until(lambda: claimed(broker) == 0, within_s=3.0, what="its end is told")
    send(app, LONG + 1, 2)
    until(lambda: ran(book) == Counter(range(7)), within_s=3.0, what="it goes on")


def test_what_was_asked_for_ahead_and_taken_over_meanwhile_is_dropped(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    app = short_ones_and_a_long(shop_redis)
    send(app, LONG + 1, 4)
    silent = {"RESILIENCE_SILENT_S": "2"}
    frozen = inside_the_long_one(workers, book, env=silent)
    frozen.kill(signal.SIGSTOP)
    workers({"name": "other"}, env=silent)
    until(lambda: book.llen("began") == 2 and book.llen("ran") == 8, what="others took over all that it held")
    frozen.kill(signal.SIGCONT)
    until(lambda: "took this worker for dead" in frozen.log(), what="it knows")
    let_pass(2)  # it beats again, and its lease is valid
    book.set("go", "1")
    send(app, 9, 20)
    until(lambda: claimed(broker) == 0 and set(range(29)) <= set(ran(book)) and ran(book)[LONG] == 2, what="both go on")
    assert ran(book) == Counter([*range(29), LONG]), "what it had not begun did not run twice"


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("pool", "kills"), [("prefork", 5), ("threads", 3), ("solo", 3)])
def test_kills_at_random_instants_lose_nothing(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers, pool: str, kills: int
) -> None:
    app, chance, sent = stock_app(shop_redis), random.Random(kills), 0
    options = {"pool": pool, "concurrency": 1 if pool == "solo" else 2}
    fleet = workers({"name": "a"}, {"name": "b"}, **options)
    for kill in range(kills):
        seen = len(ran(book))
        send(app, sent, 400)
        sent += 400
        until(lambda seen=seen: len(ran(book)) > seen, what="somebody is at work")
        time.sleep(chance.random() * 0.3)  # the random instant; whatever it meets must hold
        victim = fleet.pop(0)
        _kill(victim, chance, group=pool == "prefork" and kill % 2 == 1)
        fleet += workers({"name": f"w{kill}"}, **options)
    until(lambda: len(ran(book)) == sent, within_s=60, what="every task ran")
    repeated = sum(ran(book).values()) - sent
    assert repeated <= kills * 2, "only what was running when its worker was killed may run again"
    until(lambda: claimed(broker) == 0, what="nothing is claimed any more")


def _kill(victim: WorkerProcess, chance: random.Random, group: bool) -> None:
    children = victim.children() if group else []
    chance.shuffle(children)
    for child in children:
        child.kill()
    victim.kill()


def test_a_stopped_worker_gives_back_what_it_did_not_begin_in_order_and_leaves_nothing(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    (worker,) = workers({"name": "w"})
    send(stock_app(shop_redis), 0, 10, task="tasks.hold")
    until(lambda: book.llen("began") == 2 and claimed(broker) == 4, what="two run, two are held")
    worker.ask_to_stop()
    until(lambda: "Warm shutdown" in worker.log(), what="it is being stopped")
    book.set("go", "1")
    worker.stop()
    first = ran(book)
    assert broker.llen("celery") == 10 - len(first), "what did not run is back"
    assert not broker.keys("*:claims:*")
    workers({"name": "next"})
    until(lambda: ran(book) == Counter(range(10)), what="the others ran on the next worker, each once")


def test_connections_cut_under_load_lose_nothing_and_repeat_nothing_that_runs(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "a"}, {"name": "b"})
    app = stock_app(shop_redis)
    send(app, 0, 1500)
    for cut in range(1, 4):
        until(lambda cut=cut: len(ran(book)) > 300 * cut, what="some ran")
        cut_off(broker)
    until(lambda: len(ran(book)) == 1500, within_s=60, what="every task ran")
    assert sum(ran(book).values()) - 1500 <= 12, "at most what ran when its acknowledgement was cut off"


def cut_off(broker: redis.Redis) -> None:
    """Cut every connection to the broker's database; the tasks' own book lies in another one."""
    mine = broker.client_id()
    for client in broker.client_list(_type="normal"):
        if client["db"] == "0" and int(client["id"]) != mine:
            broker.client_kill_filter(_id=client["id"])


def test_flushed_scripts_are_loaded_again(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "a"})
    app = stock_app(shop_redis)
    for first in range(0, 300, 100):
        send(app, first, 100)
        broker.script_flush()
    until(lambda: ran(book) == Counter(range(300)), what="each ran once")


def test_urgent_messages_go_first_and_every_queue_gets_its_turn(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    app = stock_app(shop_redis)
    send(app, 0, 20, priority=6)  # on Redis 0 is the most urgent
    send(app, 100, 20, queue="other", priority=6)
    send(app, 200, 5, priority=0)
    workers({"name": "a", "queues": "celery,other"}, pool="solo", concurrency=1)
    until(lambda: len(ran(book)) == 45, what="all ran")
    order = [int(number) for number in book.lrange("ran", 0, -1)]
    assert order[:5] == list(range(200, 205))
    assert max(order.index(first) for first in (0, 100)) < 10, "neither queue waits for the other to be empty"
    assert [number for number in order if number < 20] == list(range(20)), "each queue keeps its order"


def test_a_stock_worker_and_one_of_ours_share_a_queue(
    shop_redis: str, broker: redis.Redis, book: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "ours"}, {"name": "stock", "env": {"RESILIENCE_TRANSPORT_ENABLED": "false"}})
    send(stock_app(shop_redis), 0, 400)
    until(lambda: ran(book) == Counter(range(400)), what="each ran once")


def test_an_idle_worker_sends_a_command_or_two_a_second(
    shop_redis: str, broker: redis.Redis, workers: StartWorkers
) -> None:
    workers({"name": "idle"})
    until(lambda: broker.info("clients")["blocked_clients"] >= 1, what="it waits idly")

    def turns() -> int:
        stats = broker.info("commandstats")
        return int(stats.get("cmdstat_blmove", {}).get("calls", 0))

    before, began = turns(), time.monotonic()
    until(lambda: time.monotonic() - began > 3, what="three seconds of idleness")
    assert turns() - before <= 3 * 12, "each of its lists is waited for once in five seconds"
