"""What stock Celery makes of revokes, remote control, inspection and events; `test_stock_behaviour` judges by it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from tests.integration.works_kit import WITHIN_S, On, Side, Table, answer

table = Table()
behaves = table.behaves
PARALLEL = ("prefork", "threads")
SLOTS = 2  # of these pools; each worker's prefetch window is twice its slots
RECEIVING = threading.Lock()  # kombu's channels have one table of fanout queues per process, and walk it as they close


def fill(side: Side, key: str, more: int = 0) -> list[Any]:
    """Occupy every slot, and `more` of the window behind them."""
    results = [side.send("hold", key, number) for number in range(SLOTS + more)]
    side.until(lambda: side.began(key) == SLOTS and side.queued() == 0, "slots and window are taken")
    return results


def free(side: Side, key: str, results: list[Any]) -> None:
    side.go(key)
    for result in results:
        answer(result)


@behaves([["tasks.note"], "TaskRevokedError: revoked", []], "prefork")
def revoke_of_a_reserved_task(side: Side) -> Any:
    running = fill(side, "revoke-reserved")
    result = side.send("note", "revoked-reserved")
    side.until(lambda: side.queued() == 0, "it is reserved")
    reserved = side.until(lambda: side.names(side.ask("reserved")), "it is reserved")
    side.app.control.revoke(result.id)
    side.until(lambda: result.id in (side.ask("revoked") or []), "the worker knows that it is revoked")
    free(side, "revoke-reserved", running)
    return [reserved, answer(result), side.ran("revoked-reserved")]


@behaves(["TaskRevokedError: terminated", "TaskRevokedError: terminated", 3], "prefork")
def revoke_of_a_running_task(side: Side) -> Any:
    softly, hard = side.send("hold", "revoke-running", 1), side.send("hold", "revoke-running", 2)
    side.until(lambda: side.began("revoke-running") == 2, "both run")
    side.app.control.revoke(softly.id, terminate=True)
    side.app.control.revoke(hard.id, terminate=True, signal="SIGKILL")
    return [answer(softly), answer(hard), answer(side.send("add", 1, 2))]


@behaves(["TaskRevokedError: terminated", 2, ["2"]], "prefork")
def revoke_by_stamped_headers(side: Side) -> Any:
    bad, good = side.s("hold", "stamps", 1), side.s("hold", "stamps", 2)
    bad.stamp(tenant="bad")
    good.stamp(tenant="good")
    results = [bad.apply_async(), good.apply_async()]
    side.until(lambda: side.began("stamps") == 2, "both run")
    side.app.control.revoke_by_stamped_headers({"tenant": "bad"}, terminate=True)
    outcome = answer(results[0])
    side.go("stamps")
    return [outcome, answer(results[1]), side.ran("stamps")]


@behaves(
    {"active": ["tasks.hold"] * 2, "reserved": ["tasks.add", "tasks.hold"], "known": "active", "scheduled": []},
    *PARALLEL,
)
def inspection_of_a_full_worker(side: Side) -> Any:
    running = fill(side, "inspect", more=1)
    reserved = side.send("add", 1, 1)
    side.until(lambda: side.queued() == 0, "it is reserved")
    side.until(lambda: len(side.names(side.ask("reserved"))) == 2, "both are reserved")
    active = side.ask("active")
    found = {
        "active": side.names(active),
        "reserved": side.names(side.ask("reserved")),
        "known": side.ask("query_task", active[0]["id"])[active[0]["id"]][0],
        "scheduled": side.names(side.ask("scheduled")),
    }
    free(side, "inspect", [*running, reserved])
    return found


@behaves(
    {"ping": "pong", "registered": True, "queues": ["celery", "narrow", "red", "second", "wide"], "transport": "redis"}
)
def inspection_of_an_idle_worker(side: Side) -> Any:
    stats = side.ask("stats")
    queues = [queue["name"] for queue in side.ask("active_queues")]
    return {
        "ping": side.ask("ping")["ok"],
        "registered": "tasks.add" in side.ask("registered"),
        "queues": sorted(name for name in queues if not name.startswith(("bcast.", "celeriac.worker."))),
        "transport": stats["broker"]["transport"],
    }


@behaves(On({"solo": 2, "": 4}))
def prefetch_window(side: Side) -> Any:
    return side.ask("stats")["prefetch_count"]


@behaves([6, 4], "prefork")
def window_follows_the_size_of_the_pool(side: Side) -> Any:
    side.tell("pool_grow", 1)
    grown = side.until(
        lambda: side.ask("stats")["prefetch_count"] > 4 and side.ask("stats")["prefetch_count"], "it grew"
    )
    side.tell("pool_shrink", 1)
    side.until(lambda: side.ask("stats")["prefetch_count"] < grown, "it shrank")
    return [grown, side.ask("stats")["prefetch_count"]]


@behaves(["reload started", 3], "prefork")
def pool_restart(side: Side) -> Any:
    reply = side.tell("pool_restart")
    return [reply[0]["ok"], answer(side.send("add", 1, 2))]


@behaves({"added": True, "ran": ['["fresh"]'], "cancelled": True, "reserved ran": 2, "left": 1}, *PARALLEL)
def queue_is_added_and_cancelled_while_it_runs(side: Side) -> Any:
    added = side.tell("add_consumer", "fresh")
    answer(side.send("note", "fresh", "fresh", queue="fresh"))
    running = fill(side, "cancel")
    reserved = [side.send("note", "cancelled", number, queue="fresh") for number in range(2)]
    side.until(lambda: side.queued("fresh") == 0, "they are reserved")
    cancelled = side.tell("cancel_consumer", "fresh")
    late = side.send("note", "cancelled-late", queue="fresh")
    free(side, "cancel", [*running, *reserved])
    answer(side.send("add", 1, 1))
    side.until(lambda: side.queued("fresh") == 1, "what came later stays on its queue")
    assert not side.ran("cancelled-late")
    assert late.state == "PENDING"
    return {
        "added": "add consumer" in added[0]["ok"],
        "ran": side.ran("fresh"),
        "cancelled": "no longer consuming" in cancelled[0]["ok"],
        "reserved ran": len(side.ran("cancelled")),
        "left": side.queued("fresh"),
    }


@behaves([4, 4, 0, 4], *PARALLEL)
def queue_length_and_purge(side: Side) -> Any:
    running = fill(side, "purge", more=2)
    for number in range(4):
        side.send("note", "purged", number)
    with side.app.connection_for_read() as connection:
        length = connection.default_channel.queue_declare("celery", passive=True).message_count
    purged = side.app.control.purge()
    free(side, "purge", running)
    answer(side.send("add", 1, 1))
    return [length, purged, len(side.ran("purged")), len(side.ran("purge"))]


@behaves(["task-received", "task-started", "task-succeeded"])
def events_arrive(side: Side) -> Any:
    seen: list[str] = []
    side.tell("enable_events")
    with RECEIVING, side.app.connection_for_read() as base:
        receiver = side.app.events.Receiver(base, handlers={"*": lambda event: seen.append(event["type"])})
        with receiver.consumer_context() as (connection, _, _):
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)  # only now does kombu subscribe
            answer(side.send("add", 1, 1))
            while "task-succeeded" not in seen:
                connection.drain_events(timeout=WITHIN_S)
    return sorted({kind for kind in seen if kind.startswith("task-")})


@behaves(["TaskRevokedError: revoked", []])
def revoke_before_it_is_due(side: Side) -> Any:
    result = side.send("note", "revoked-early", countdown=1.0)
    side.app.control.revoke(result.id)
    outcome = answer(result)
    side.until(lambda: not side.ask("scheduled"), "its time came")
    return [outcome, side.ran("revoked-early")]


@behaves([1, "new rate limit set successfully", 2], *PARALLEL)
def rate_limit_and_its_change(side: Side) -> Any:
    """The last of all: what waits for its turn holds its place in the window for an hour, new limit or not."""
    first = side.send("rare", "rare")
    answer(first)
    side.send("rare", "rare")
    side.until(lambda: side.queued() == 0, "the second waits in the worker")
    assert answer(side.send("add", 1, 1)) == 2, "others run past it"
    ran = len(side.ran("rare"))
    reply = side.tell("rate_limit", "tasks.rare", "1000/s")
    answer(side.send("rare", "rare"))
    return [ran, reply[0]["ok"], len(side.ran("rare"))]
