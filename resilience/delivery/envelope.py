"""A message between the bytes in a queue and what kombu makes of them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

ENTRY = "celeriac-entry"
"""In a payload that kombu made a message of: the list where it lay and its bytes there."""

_TYPED, _ESCAPED = "__type__", "\\u"
"""In a text without these kombu's JSON decoder finds nothing of its own."""


class UnreadableError(ValueError):
    """Kombu cannot make a message of what it read, `because` of this."""

    def __init__(self, because: Exception) -> None:
        super().__init__(str(because))
        self.because = because


class OwnedMessage(virtual.Message):
    """Kombu's message; what goes wrong while one is made is told apart from what goes wrong when it is handled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except Exception as error:
            raise UnreadableError(error) from error


def read(raw: bytes) -> Any:
    """What kombu makes of a message's bytes, in half the time where no value is of a type that JSON does not have."""
    text = raw.decode()
    return loads(text) if _TYPED in text or _ESCAPED in text else json.loads(text)


def redelivered(raw: bytes) -> bytes:
    """The message marked as delivered before, as stock workers mark it."""
    with suppress(
        ValueError, KeyError, TypeError, AttributeError, RecursionError
    ):  # not a message: it goes back as it is
        payload = loads(bytes_to_str(raw))
        payload.setdefault("headers", {})["redelivered"] = True
        payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
        return str(dumps(payload)).encode()
    return raw
