"""Who goes first in a worker's line: what a death cut short, in its order, and nobody for a second time."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.delivery.deaths import FIRST, blamed, goes_first, requeued
from resilience.workers.interrupted import stand_in_line, was_interrupted
from resilience.workers.threads import Threads


def message(**headers: Any) -> bytes:
    return json.dumps({"headers": {"id": "1", "task": "t", **headers}, "properties": {}}).encode()


def headers_of(raw: bytes) -> dict[str, Any]:
    headers: dict[str, Any] = json.loads(raw)["headers"]
    return headers


@given(st.lists(st.booleans()))
def test_those_that_go_first_keep_their_order_and_so_do_the_others(kinds: list[bool]) -> None:
    line: deque[tuple[bool, int]] = deque()
    for number, first in enumerate(kinds):
        if first:
            stand_in_line(line, (first, number), lambda one: one[0])
        else:
            line.append((first, number))
    assert list(line) == sorted(line, key=lambda one: (not one[0], one[1]))


@pytest.mark.parametrize("retries", [0, 2, None])
def test_the_attempt_that_a_death_cut_short_goes_first_and_no_later_one(retries: int | None) -> None:
    assert not goes_first(headers_of(message(retries=retries)))
    again = blamed(message(retries=retries))[0]
    assert goes_first(headers_of(again))
    assert not goes_first({**headers_of(again), "retries": (retries or 0) + 1}), "a retry after it"
    assert not goes_first(headers_of(requeued(again))), "it asked to be run later itself"


@pytest.mark.parametrize("first", [None, "0", [], {}, -1, 10**400])
def test_what_anybody_wrote_there_makes_nothing_go_first_or_wrong(first: object) -> None:
    assert not goes_first({FIRST: first, "retries": []})


@pytest.mark.parametrize("nothing", [None, object(), ()])
def test_what_is_no_request_goes_with_the_others(nothing: object) -> None:
    assert not was_interrupted(nothing)


def test_a_pool_of_threads_lets_it_go_first() -> None:
    threads, gate, ran = Threads(1), threading.Event(), list[str]()
    try:
        threads.submit(gate.wait, 20)
        threads.submit(ran.append, "waited")
        for name in ("cut short", "cut short after it"):
            threads.submit(ran.append, name, first=True)
    finally:
        gate.set()
        threads.shutdown()
    assert ran == ["cut short", "cut short after it", "waited"]
