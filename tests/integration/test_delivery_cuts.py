"""Connections that break at any byte, or go silent without breaking: every message is still somebody's, and runs."""

from __future__ import annotations

import os
import time

import pytest

from resilience.testing import until
from tests.integration.proxy import Proxy, cuts_at_random
from tests.integration.trouble_kit import Trouble, assert_in_time, book_server, say, trouble

__all__ = ["book_server", "trouble"]  # fixtures

SEEDS = range(int(os.environ.get("CELERIAC_CHAOS_SEEDS", "10"))) if os.environ.get("CELERIAC_CHAOS") else [1]

LONG_PULSE = {"RESILIENCE_GONE_S": "20"}
"""A pulse that is cut for longer than gone_s is a death to the others: another idea than the ones here."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", SEEDS)
def test_connections_cut_at_random_bytes_lose_nothing(trouble: Trouble, seed: int) -> None:
    """Mid-command, mid-reply, mid-handshake: every connection of the workers has another length of life."""
    publisher = trouble.publisher()
    with Proxy(trouble.server.port) as proxy:
        trouble.start_one_of_each_pool(f"redis://127.0.0.1:{proxy.port}/0", env=LONG_PULSE)
        proxy.cut_from_now_on(cuts_at_random(seed, mean_bytes=20_000))
        publisher.send(200, 0.005)
        publisher.keep_sending(per_s=30, for_s=0.005)
        until(lambda: proxy.cuts > 60, within_s=60, what="many were cut")
        proxy.cut_from_now_on(lambda: None)
        trouble.until_all_work_again(time.time())
        trouble.until_done(publisher)
        say("cuts", cuts=proxy.cuts, **trouble.book.repeats())
    # what ran while its connection was cut ends on the same worker, and tells it on the next connection
    assert not trouble.book.repeats()


def test_half_open_connections_are_left_within_ten_seconds(trouble: Trouble) -> None:
    """Nothing goes through them and nothing closes them, while two workers are busy and one is idle."""
    publisher = trouble.publisher()
    with Proxy(trouble.server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        trouble.start({"name": "idle", "queues": "other"}, url=url, pool="solo", concurrency=1, env=LONG_PULSE)
        trouble.start({"name": "prefork"}, {"name": "threads", "pool": "threads"}, url=url, env=LONG_PULSE)
        publisher.send(300, 0.02)
        until(lambda: len(trouble.book.back_after_s(0)) == 2, what="two are at work")
        proxy.freeze()
        froze, before = time.time(), max(publisher.sent)
        publisher.send(1, queue="other")
        publisher.keep_sending(per_s=60, for_s=0.02)
        took = until(lambda: all_three(trouble.book.back_after_s(froze, above=before)), within_s=40)
        say("half-open", **took)
        trouble.until_done(publisher)
    assert_in_time(took)
    assert not trouble.book.repeats()


def all_three(took: dict[str, float]) -> dict[str, float]:
    return took if len(took) == 3 else {}
