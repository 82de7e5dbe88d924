"""What the script of a turn answers."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """See turn.lua. `messages` are pairs of the number of a source, from 1 on, and a text."""

    late: int
    first: int
    alone: int
    messages: list[tuple[int, bytes]]

    @classmethod
    def read(cls, reply: bytes) -> Told:
        head, _, texts = reply.partition(b"\n")
        late, first, alone, *rows = map(int, head.split())
        messages, at = [], 0
        for number, length in zip(rows[::2], rows[1::2], strict=True):
            messages.append((number, texts[at : at + length]))
            at += length
        return cls(late, first, alone, messages)
