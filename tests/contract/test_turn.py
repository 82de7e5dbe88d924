"""The script of a worker's turn on a real Redis: a message is in a queue or in a claim, never in nobody's hands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience import lua
from resilience.delivery.told import Told

CLAIMS, DELAYED, UNBEGUN, ALONE, DRAINER = "claims", "delayed", "unbegun", "alone", "drainer"


class Turn:
    """The script as a worker calls it."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.alone = 0
        self._script = client.register_script(lua.source("resilience.delivery", "turn.lua"))

    def __call__(
        self, sources: list[str] | None = None, room: int = 0, width: int = 1, acked: list[str] | None = None,
        returned: list[tuple[str, str]] | None = None, waits: list[tuple[str, str]] | None = None,
        started: list[str] | None = None, solitude: str = "", where: str = "", claims: str = CLAIMS,
        connection: str = "",
    ) -> tuple[int, list[tuple[str, str, str]]]:  # fmt: skip
        """How many settlements came too late, and (tag, source, message) of what was taken."""
        sources, acked, returned, started = sources or [], acked or [], returned or [], started or []
        reply = self._script(
            keys=[claims, DELAYED, UNBEGUN, ALONE, DRAINER, *sources, *chain.from_iterable(waits or [])],
            args=[
                room, width, len(sources), solitude, len(acked), *acked,
                len(returned), *chain.from_iterable((tag, text, where) for tag, text in returned),
                len(started), *started, *([connection] if connection else []),
            ],
        )  # fmt: skip
        told = Told.read(reply.encode())
        self.alone = told.alone
        found = enumerate(told.messages, start=told.first)
        return told.late, [(str(tag), sources[at - 1], text.decode()) for tag, (at, text) in found]

    def claimed(self) -> set[str]:
        return {name for name in self.client.hkeys(CLAIMS) if name.isdigit()}


@pytest.fixture
def turn(redis_url: str) -> Iterator[Turn]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield Turn(client)


def put(turn: Turn, queue: str, *messages: str) -> None:
    for message in messages:
        turn.client.lpush(queue, message)


def lies_in(turn: Turn, queue: str) -> list[str]:
    """What a queue holds, the next one first."""
    return list(reversed(turn.client.lrange(queue, 0, -1)))


def test_it_takes_the_oldest_up_to_the_room_and_claims_what_it_takes(turn: Turn) -> None:
    put(turn, "q", "a", "b", "c")
    late, taken = turn(["q"], room=2)
    assert late == 0
    assert [(source, text) for _, source, text in taken] == [("q", "a"), ("q", "b")]
    assert lies_in(turn, "q") == ["c"]
    assert turn.claimed() == {tag for tag, _, _ in taken}


def test_a_message_of_each_queue_in_turn_and_urgent_ones_first(turn: Turn) -> None:
    put(turn, "a", "a1", "a2", "a3")
    put(turn, "b", "b1")
    put(turn, "a9", "urgent")
    _, taken = turn(["a9", "b9", "a", "b"], room=4, width=2)
    assert [text for _, _, text in taken] == ["urgent", "a1", "b1", "a2"]


def test_an_acknowledged_message_is_gone_and_a_second_ack_is_late(turn: Turn) -> None:
    put(turn, "q", "a")
    _, [(tag, _, _)] = turn(["q"], room=1)
    assert turn(acked=[tag]) == (0, [])
    assert turn.claimed() == set()
    assert turn(acked=[tag]) == (1, [])


def test_returned_newest_first_they_lie_in_their_old_order_with_their_new_text(turn: Turn) -> None:
    put(turn, "q", "a", "b", "c", "d")
    _, taken = turn(["q"], room=3)
    late, again = turn(returned=[(taken[2][0], ""), (taken[1][0], "B"), (taken[0][0], "")])
    assert (late, again) == (0, [])
    assert lies_in(turn, "q") == ["a", "B", "c", "d"]
    assert turn.claimed() == set()


def test_what_is_not_claimed_any_more_cannot_be_returned_twice(turn: Turn) -> None:
    put(turn, "q", "a")
    _, [(tag, _, _)] = turn(["q"], room=1)
    turn(returned=[(tag, "")])
    assert turn(returned=[(tag, "")]) == (1, [])
    assert lies_in(turn, "q") == ["a"]


def test_what_is_sent_on_goes_to_the_back_of_the_other_list_once_and_in_order(turn: Turn) -> None:
    put(turn, "q", "a", "b")
    put(turn, "other", "earlier")
    _, taken = turn(["q"], room=2)
    moves = [(tag, text + "!") for tag, _, text in taken]
    assert turn(returned=moves, where="to:other")[0] == 0
    assert turn(returned=moves, where="to:other")[0] == 2, "the answer was lost, so it is told again"
    assert lies_in(turn, "other") == ["earlier", "a!", "b!"]
    assert (lies_in(turn, "q"), turn.claimed()) == ([], set())


def test_what_is_sent_on_to_a_key_that_is_no_list_goes_back_to_its_queue(turn: Turn) -> None:
    put(turn, "q", "a")
    turn.client.set("settings", "dear")
    _, [(tag, _, _)] = turn(["q"], room=1)
    assert turn(returned=[(tag, "a!")], where="to:settings") == (0, [])
    assert lies_in(turn, "q") == ["a!"]
    assert turn.client.get("settings") == "dear"


def test_what_moved_while_it_waited_is_taken_first_or_goes_back(turn: Turn) -> None:
    put(turn, "q", "a", "b")
    turn.client.lmove("q", "wait:q", "RIGHT", "LEFT")
    assert turn(waits=[("wait:q", "q")]) == (0, [])
    assert lies_in(turn, "q") == ["a", "b"]
    turn.client.lmove("q", "wait:q", "RIGHT", "LEFT")
    _, taken = turn(["q"], room=1, waits=[("wait:q", "q")])
    assert [text for _, _, text in taken] == ["a"]
    assert turn.client.exists("wait:q") == 0


def test_what_returns_goes_in_front_of_what_moved_while_it_waited(turn: Turn) -> None:
    put(turn, "q", "a", "b", "c", "d")
    _, [(tag, _, _)] = turn(["q"], room=1)
    for _ in range(2):
        turn.client.lmove("q", "wait:q", "RIGHT", "LEFT")
    turn(returned=[(tag, "")], waits=[("wait:q", "q")])
    assert lies_in(turn, "q") == ["a", "b", "c", "d"]


def test_tags_of_a_hash_that_was_forgotten_never_come_again(turn: Turn) -> None:
    put(turn, "q", "a", "b")
    _, [(first, _, _)] = turn(["q"], room=1)
    turn.client.delete(CLAIMS)
    _, [(second, _, _)] = turn(["q"], room=1)
    assert int(second) > int(first)


def test_a_message_may_hold_anything(turn: Turn) -> None:
    odd = ["", "\n", "3:abc", "a\0b", "ä" * 1000, "{}", "12:"]
    for text in odd:
        put(turn, "q:\n1:x", text)
    _, taken = turn(["q:\n1:x"], room=10)
    assert [text for _, _, text in taken] == odd
    turn(returned=[(tag, "") for tag, _, _ in reversed(taken)])
    assert lies_in(turn, "q:\n1:x") == odd


def test_thousands_are_settled_in_one_turn(turn: Turn) -> None:
    put(turn, "q", *(str(n) for n in range(2500)))
    _, taken = turn(["q"], room=2500)
    assert turn(acked=[tag for tag, _, _ in taken]) == (0, [])
    assert turn.claimed() == set()


def test_what_is_claimed_counts_as_not_begun_until_it_is_marked_or_ends(turn: Turn) -> None:
    put(turn, "q", "a", "b", "c")
    _, taken = turn(["q"], room=3)
    first, second, third = (tag for tag, _, _ in taken)
    assert turn.client.smembers(UNBEGUN) == {first, second, third}
    turn(started=[first])
    assert turn.client.smembers(UNBEGUN) == {second, third}
    turn(acked=[second], returned=[(third, "")])
    assert turn.client.exists(UNBEGUN) == 0


def test_a_mark_that_comes_after_the_end_leaves_nothing_behind(turn: Turn) -> None:
    put(turn, "q", "a")
    _, [(tag, _, _)] = turn(["q"], room=1)
    turn(acked=[tag])
    turn(started=[tag])
    assert not turn.client.exists(UNBEGUN)


def set_aside(turn: Turn, source: str, text: str) -> None:
    put(turn, source, text)
    _, [(tag, _, _)] = turn([source], room=1)
    turn(returned=[(tag, "")], where="alone")


def test_what_must_run_alone_is_taken_by_nobody_who_holds_something(turn: Turn) -> None:
    set_aside(turn, "q", "bad")
    assert turn(["q"], room=5) == (0, [])
    assert turn(["other"], room=5, solitude="empty") == (0, []), "a queue that this worker does not serve"
    put(turn, "q", "good")
    _, taken = turn(["other", "q"], room=5, solitude="empty")
    assert [(source, text) for _, source, text in taken] == [("q", "bad")]
    assert turn.alone == -1
    assert turn.client.exists(ALONE, DRAINER) == 0


def test_one_busy_worker_at_a_time_makes_room_for_it(turn: Turn) -> None:
    set_aside(turn, "q", "bad")
    put(turn, "q", "good")
    assert turn(["q"], room=5, solitude="drain", claims="claims:a") == (0, [])
    assert turn.alone == 1, "this one takes no more until it holds nothing"
    _, taken = turn(["q"], room=5, solitude="drain", claims="claims:b")
    assert turn.alone == 0
    assert [text for _, _, text in taken] == ["good"]
    turn(["q"], room=5, solitude="empty", claims="claims:a")
    assert turn.alone == -1


def test_a_server_out_of_memory_refuses_no_turn(turn: Turn) -> None:
    """A turn moves what is there; workers that cannot take anything would never make room."""
    put(turn, "q", "a", "b", "c")
    _, taken = turn(["q"], room=1)
    turn.client.lmove("q", "wait:q", "RIGHT", "LEFT")
    turn.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            turn.client.set("any", "thing")
        assert turn(returned=[(tag, "") for tag, _, _ in taken]) == (0, [])
        late, taken = turn(["q"], room=5, waits=[("wait:q", "q")])
        assert (late, [text for _, _, text in taken]) == (0, ["b", "a", "c"]), "what moved for a wait was the next"
        assert turn(acked=[tag for tag, _, _ in taken]) == (0, [])
    finally:
        turn.client.config_set("maxmemory", 0)
    assert not turn.claimed()


def test_what_a_connection_asked_that_was_given_up_settles_and_takes_nothing(turn: Turn) -> None:
    put(turn, "q", "a", "b")
    turn.client.hset(CLAIMS, "c", "new")
    _, taken = turn(["q"], room=1, connection="new")
    assert [text for _, _, text in taken] == ["a"]
    assert turn(["q"], room=5, acked=[tag for tag, _, _ in taken], connection="old") == (0, [])
    assert not turn.claimed()
    assert lies_in(turn, "q") == ["b"]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["p9", "q9", "p", "q"]), st.integers(1, 3)),
        st.tuples(st.just("take"), st.integers(0, 4)),
        st.tuples(st.just("ack"), st.integers(0, 5)),
        st.tuples(st.just("return"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from(["p9", "q9", "p", "q"])),
        st.tuples(st.just("late"), st.integers(0, 5)),
    ),
    max_size=40,
)
_SOURCES = ["p9", "q9", "p", "q"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_whatever_happens_every_message_is_in_exactly_one_place(turn: Turn, steps: list[tuple[Any, ...]]) -> None:
    turn.client.flushall()
    sent: set[str] = set()
    ended: set[str] = set()
    mine: dict[str, str] = {}
    waits = [(f"wait:{source}", source) for source in _SOURCES]
    for step in steps:
        match step:
            case ("put", str(queue), int(count)):
                for _ in range(count):
                    put(turn, queue, f"m{len(sent)}")
                    sent.add(f"m{len(sent)}")
            case ("take", int(room)):
                _, taken = turn(_SOURCES, room, 2, waits=waits)
                assert len(taken) <= room
                mine.update({tag: text for tag, _, text in taken})
            case ("ack", int(count)):
                tags = list(mine)[:count]
                assert turn(acked=tags)[0] == 0
                ended |= {mine.pop(tag) for tag in tags}
            case ("return", int(count)):
                tags = list(mine)[:count]
                assert turn(returned=[(tag, "") for tag in tags])[0] == 0
                for tag in tags:
                    del mine[tag]
            case ("wait", str(source)):
                turn.client.lmove(source, f"wait:{source}", "RIGHT", "LEFT")
            case ("late", int(count)):
                assert turn(acked=[str(n) for n in range(count)])[0] == count
        places = [
            text for name in [*_SOURCES, *(wait for wait, _ in waits)] for text in turn.client.lrange(name, 0, -1)
        ]
        assert sorted([*places, *mine.values()]) == sorted(sent - ended)
        assert turn.claimed() == set(mine)
