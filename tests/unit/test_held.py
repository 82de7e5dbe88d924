"""What a worker holds of its broker's messages, without a broker."""

from __future__ import annotations

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
