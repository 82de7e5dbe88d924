"""What stock Celery makes of exchanges, bindings, fan-outs and priorities; `test_stock_behaviour` judges by it."""

from __future__ import annotations

from typing import Any

from kombu import Exchange

from tests.integration.works_kit import Side, Table, answer

table = Table()
behaves = table.behaves
TOPICS, ROUTES = Exchange("topics", type="topic"), Exchange("routes", type="direct")


@behaves(["news.late", "news.sport", "news.sport", "today.late"])
def topic_exchange_with_several_bindings(side: Side) -> Any:
    for key in ("news.sport", "news.late", "today.late", "unheard.of"):
        side.send("note_route", "topics", exchange="topics", routing_key=key, declare=[TOPICS])
    side.until(lambda: len(side.ran("topics")) >= 4, "each binding got its message")
    answer(side.send("add", 1, 1))
    return sorted(side.ran("topics"))


@behaves(["crimson", "red"])
def direct_exchange_with_several_bindings(side: Side) -> Any:
    for key in ("red", "crimson"):
        side.send("note_route", "routes", exchange="routes", routing_key=key, declare=[ROUTES])
    side.until(lambda: len(side.ran("routes")) >= 2, "both ran")
    return sorted(side.ran("routes"))


@behaves([["celery"], 2])
def fan_out_reaches_every_worker(side: Side) -> Any:
    fanout = Exchange("everyone", type="fanout")
    side.send("note_route", "everyone", exchange="everyone", routing_key="celery", declare=[fanout])
    side.until(lambda: side.ran("everyone"), "it ran")
    return [side.ran("everyone"), answer(side.send("add", 1, 1))]


@behaves([0, 3, 6, 9], "solo")
def most_urgent_first(side: Side) -> Any:
    first = [side.send("hold", "urgent", number) for number in range(2)]
    side.until(lambda: side.began("urgent") == 1, "the slot is taken")
    rest = [side.send("hold", "urgency", step, priority=step) for step in (9, 3, 6, 0)]
    side.go("urgency")
    side.go("urgent")
    for result in (*first, *rest):
        answer(result)
    return side.numbers("urgency")


@behaves([3, 3])
def queues_of_a_worker_all_run(side: Side) -> Any:
    return [answer(side.send("add", 1, 2, queue=queue)) for queue in ("celery", "second")]
