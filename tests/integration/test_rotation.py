"""A worker out of rotation: it takes nothing, what it had not begun goes back in order, and it returns."""

from __future__ import annotations

import json

import pytest

from resilience.testing import until
from tests.integration.forge_kit import Forge, forge

__all__ = ["forge"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_out_of_rotation_it_gives_back_in_order_what_it_had_not_begun_and_takes_nothing_until_it_returns(
    pool: str, forge: Forge
) -> None:
    count, slots = 40, 1 if pool == "solo" else 2
    worker = forge.worker("a", pool=pool, concurrency=slots, FORGE_OBEYS="1", FORGE_PREFETCH="8")
    worker.wait_ready()
    forge.send("hold", *range(count))
    until(lambda: forge.book.llen("began") == slots, what="it is at work")
    if pool != "solo":  # which asks for more when the task is done
        until(lambda: forge.queued <= count - 8, what="and holds more than it runs")

    forge.book.set("out:a", "its fire went out")
    until(lambda: forge.queued == count - slots, what="all but what it runs is back")
    lie = [int(json.loads(raw)["headers"]["argsrepr"].strip("(,)")) for raw in forge.broker.lrange("celery", 0, -1)]
    assert lie == sorted(lie, reverse=True), "the next one is taken from the right"
    forge.until_out("a", "its fire went out")
    forge.book.set("go", "1")
    until(lambda: len(forge.forged("a")) == slots, what="what ran ran on")
    forge.cut_connections()
    until(lambda: worker.log().count("Connected to ") == 2, what="it has a new connection")
    forge.send("forge", count, queue="celeriac.worker.a@test")
    until(lambda: len(forge.forged("a")) == slots + 1, what="and consumes its own queue")
    assert (forge.queued, forge.book.llen("began")) == (count - slots, slots), "it takes nothing else there either"

    forge.book.delete("out:a")
    until(lambda: forge.forged("a") == list(range(count + 1)), what="it is back")
    assert forge.book.llen("began") == count
    until(lambda: not forge.why_out("a"), what="and its record says so")


def test_what_it_gave_back_uses_up_no_rate_limit(forge: Forge) -> None:
    count, rounds = 5, 8
    forge.worker("a", FORGE_OBEYS="1").wait_ready()
    forge.send("rare", *range(count))
    for _ in range(rounds):
        until(lambda: forge.queued == 0, what="the others wait in it, one a second may run")
        forge.book.set("out:a", "its fire went out")
        until(lambda: forge.queued + len(forge.forged("a")) == count, what="they are back")
        forge.book.delete("out:a")
    until(lambda: forge.forged("a") == list(range(count)), what="all ran, long before each waited for eight copies")
