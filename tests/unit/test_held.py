"""What a worker holds of its broker's messages, without a broker."""

from __future__ import annotations

import threading

from resilience.delivery.held import Held


def test_what_a_lapsed_worker_refused_to_begin_is_given_back_even_if_the_lease_is_renewed_at_once() -> None:
    held = Held("shop", "me")
    held.take("1", b"message")
    held.leave()
    assert not held.start("1")
    held.renewed(30)
    assert held.reconnect_why, "the loop connects anew, which gives back what is not begun"


def test_what_went_back_already_is_refused_without_more_ado() -> None:
    held = Held("shop", "me")
    held.take("1", b"message")
    held.give_back("1", lambda raw: raw)
    assert not held.start("1")
    assert not held.reconnect_why


def test_a_signal_that_ends_the_worker_while_its_loop_gives_back_may_give_back_too() -> None:
    def signalled() -> set[str]:
        signals.append(1)
        if len(signals) == 1:
            ended.append(held.give_back_idle(bytes))
        return set()

    signals: list[int] = []
    ended: list[list[str]] = []
    held = Held("celeriac", "w", signalled)
    for tag in ("1", "2"):
        held.take(tag, b"text")
    loop = threading.Thread(target=held.give_back_idle, args=(bytes,), daemon=True)
    loop.start()
    loop.join(20)
    assert ended == [["2", "1"]]
    assert [tag for tag, *_ in held.settle().returned] == ["2", "1"]
