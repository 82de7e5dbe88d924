"""What stock Celery makes of canvases, results, retries, rejects and limits; `test_stock_behaviour` judges by it."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import chain, chord, group
from celery.canvas import chunks, xstarmap

from tests.integration.works_kit import WITHIN_S, Side, Table, answer

table = Table()
behaves = table.behaves


@behaves(16)
def chain_hands_results_on(side: Side) -> Any:
    return answer(chain(side.s("add", 1, 2), side.s("add", 3), side.s("add", 10)).apply_async())


@behaves(["ValueError: mid", "ValueError: mid"])
def chain_ends_at_its_first_error(side: Side) -> Any:
    last = chain(side.s("add", 1, 2), side.s("fail", "mid").set(immutable=True), side.s("add", 10)).apply_async()
    return [answer(last.parent), answer(last)]


@behaves([3, 5, 7])
def group_gathers(side: Side) -> Any:
    return answer(group([side.s("add", 1, 2), side.s("add", 2, 3), side.s("add", 3, 4)]).apply_async())


@behaves(45)
def chord_waits_for_all(side: Side) -> Any:
    return answer(chord([side.s("add", n, 0) for n in range(10)])(side.s("total")))


@behaves(["ValueError", ["ChordError"]])
def chord_of_which_a_part_fails(side: Side) -> Any:
    body = side.s("total").on_error(side.s("note_error", key="chord-error"))
    text = answer(chord([side.s("add", 1, 1), side.s("fail", "part")])(body))
    side.until(lambda: side.ran("chord-error"), "the errback ran")
    return [text.partition(":")[0], [entry.partition(":")[0] for entry in side.ran("chord-error")]]


@behaves([["3"], ["ValueError: linked"]])
def links_and_errbacks(side: Side) -> Any:
    side.s("add", 1, 2).apply_async(link=side.s("note_result", key="linked"))
    side.s("fail", "linked").apply_async(link_error=side.s("note_error", key="link-error"))
    side.until(lambda: side.ran("linked") and side.ran("link-error"), "both callbacks ran")
    return [side.ran("linked"), side.ran("link-error")]


@behaves([16, 4, [7, 8]])
def canvas_within_canvas(side: Side) -> Any:
    inner = chord([side.s("add", 3), side.s("add", 7)], side.s("total"))
    nested = group(
        chain(side.s("add", 1, 2), inner),
        side.s("add", 2, 2),
        chain(side.s("add", 1, 1), group([side.s("add", 5), side.s("add", 6)])),
    )
    return answer(nested.apply_async())


@behaves(30)
def chord_of_chains(side: Side) -> Any:
    return answer(
        chord([chain(side.s("add", n, 1), side.s("add", 3)) for n in range(5)], side.s("total")).apply_async()
    )


@behaves([[3, 7], [0, 1, 4], [[1, 2], [3]]])
def starmap_map_and_chunks(side: Side) -> Any:
    app = side.app
    many = xstarmap(side.s("add"), [(1, 2), (3, 4)], app=app)
    squares = app.signature("celery.map", kwargs={"task": side.s("total"), "it": [[0], [1], [2, 2]]})
    pieces = chunks(side.s("add"), [(0, 1), (1, 1), (1, 2)], 2, app=app).group()
    return [answer(many.apply_async()), answer(squares.apply_async()), answer(pieces.apply_async())]


@behaves([13, [3, 4], 20])
def task_replaces_itself(side: Side) -> Any:
    in_chord = chord([side.s("replaced", 1), side.s("add", 4, 4)], side.s("total"))
    return [
        answer(side.send("replaced", 2)),
        answer(side.send("replaced_by_group", 2)),
        answer(in_chord.apply_async()),
    ]


@behaves([None, "PENDING"])
def ignored_result(side: Side) -> Any:
    result = side.send("add", 1, 2, ignore_result=True)
    probe = side.send("add", 1, 2)
    answer(probe)
    return [result.get(timeout=WITHIN_S), side.app.AsyncResult(result.id).state]


@behaves([2, "Retry in 0s"])
def task_retries_itself(side: Side) -> Any:
    assert answer(side.send("retries", 2)) == 2
    return [answer(side.send("retries", 2)), "Retry in 0s"]


@behaves({"stamped": {"tenant": "t1"}, "chained": {"tenant": "t1"}})
def stamps_travel(side: Side) -> Any:
    single = side.s("stamped", "stamp-1")
    single.stamp(tenant="t1")
    chained = chain(side.s("stamped", "stamp-2").set(immutable=True), side.s("stamped", "stamp-3").set(immutable=True))
    chained.stamp(tenant="t1")
    return {"stamped": answer(single.apply_async()), "chained": answer(chained.apply_async())}


@behaves([1, "FAILURE", 3])
def reject(side: Side) -> Any:
    dropped = side.send("rejects", "reject-drop", False)
    again = answer(side.send("rejects", "reject-again", True))
    return [int(side.book.get("runs:reject-drop") or 0), dropped.state, again]


@behaves([["ignored"], "PENDING"])
def ignore(side: Side) -> Any:
    result = side.send("ignores", "ignored")
    side.until(lambda: side.ran("ignored"), "it ran")
    answer(side.send("add", 1, 1))
    return [side.ran("ignored"), result.state]


@behaves(["ValueError: not acknowledged", ["False"], 0])
def failure_without_an_acknowledgement(side: Side) -> Any:
    text = answer(side.send("fails_unacknowledged", "unacked"))
    answer(side.send("add", 1, 1))
    return [text, side.ran("unacked"), side.queued()]


@behaves(["cleaned up", "TimeLimitExceeded: TimeLimitExceeded(0.7,)"], "prefork")
def time_limits(side: Side) -> Any:
    soft, hard = side.send("softly_limited", "soft"), side.send("strictly_limited", "hard")
    return [answer(soft), answer(hard)]


@behaves(["WorkerLostError", 1], "prefork")
def child_that_dies_of_a_task_acknowledged_early(side: Side) -> Any:
    """It dies only when its worker knows that it began: stock Celery runs it again otherwise (ours: test_edges)."""
    result = side.send("kills_its_child_acked", "early")
    side.until(lambda: side.ask("active"), "its worker knows that it runs")
    side.go("early")
    return [answer(result).partition(":")[0], int(side.book.get("runs:early"))]


@behaves(2, "prefork")
def child_that_dies_of_a_task_acknowledged_late(side: Side) -> Any:
    return answer(side.send("kills_its_child", "late"))


@behaves(["TaskRevokedError: expired", []])
def message_that_expires_in_its_queue(side: Side) -> Any:
    result = side.send("note", "expired", expires=-1)
    return [answer(result), side.ran("expired")]


@behaves(True)
def countdown_is_waited_for(side: Side) -> Any:
    sent = time.time()
    answer(side.send("add", 1, 1, countdown=0.6))
    return time.time() - sent >= 0.6


@behaves([['["gzip"]'], ['["zlib"]'], ['["pickled"]']])
def compression_and_serializers(side: Side) -> Any:
    side.send("note", "gz", "gzip", compression="gzip")
    side.send("note", "zl", "zlib", compression="zlib")
    side.send("note", "yaml", "pickled", serializer="json")
    side.until(lambda: all(side.ran(key) for key in ("gz", "zl", "yaml")), "all ran")
    return [side.ran(key) for key in ("gz", "zl", "yaml")]


@behaves(7)
def message_of_protocol_1(side: Side) -> Any:
    side.app.conf.task_protocol = 1
    side.app.amqp.__dict__.pop("_create_task_sender", None)
    try:
        message = side.app.amqp.as_task_v1("protocol-1-" + os.urandom(4).hex(), "tasks.add", (3, 4), {})
    finally:
        side.app.conf.task_protocol = 2
    with side.app.producer_or_acquire() as producer:
        producer.publish(
            message.body, serializer="json", routing_key="celery", exchange="", headers=message.headers,
            **{key: value for key, value in message.properties.items() if key != "reply_to"},
        )  # fmt: skip
    return answer(side.app.AsyncResult(message.body["id"]))
