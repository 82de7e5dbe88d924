"""What operators did, by whom and why: kept in streams of the namespace that everybody can read."""

from __future__ import annotations

from typing import Any, cast

from signals.redact import one_line

AUDIT_LENGTH = 10_000
"""Entries of a stream that are kept, about."""

ACTOR_LENGTH, REASON_LENGTH = 100, 200
"""Characters of an operator's name and of his reason that are kept."""


def who_and_why(action: str, actor: str, reason: str) -> tuple[str, str]:
    """Who and why, each one printable line: everybody can read the audit. Raises ValueError when one is missing."""
    who, why = (
        one_line("".join(letter if letter.isprintable() else " " for letter in str(text)), limit)
        for text, limit in ((actor, ACTOR_LENGTH), (reason, REASON_LENGTH))
    )
    if not who or not why:
        raise ValueError(f"{action} needs an actor and a reason: who does it, and why")
    return who, why


def newest(client: Any, key: str, count: int) -> list[dict[str, str]]:
    """The entries of a stream, newest first, each with the stream id as `id`. Raises the errors of the client."""
    rows = cast("list[tuple[bytes, dict[bytes, bytes]]]", client.xrevrange(key, count=count))
    return [
        {"id": row_id.decode(), **{name.decode(): value.decode("utf-8", "replace") for name, value in row.items()}}
        for row_id, row in rows
    ]
