"""A message between the bytes in a queue and what kombu makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kombu.serialization import registry
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

ENTRY = "celeriac-entry"
"""In a payload that kombu made a message of: the list where it lay and its bytes there."""

_JSON = "application/json"

_decode = json.JSONDecoder().raw_decode

_TYPED, _ESCAPED = "__type__", "\\u"
"""In a text without these kombu's JSON decoder finds nothing of its own."""


class UnreadableError(ValueError):
    """Kombu cannot make a message of what it read, `because` of this."""

    def __init__(self, because: Exception) -> None:
        super().__init__(str(because))
        self.because = because


class OwnedMessage(virtual.Message):
    """Kombu's message; what goes wrong while one is made is told apart from what goes wrong when it is handled."""

    held: Any = None
    """What the worker holds, this message among it; None of a fan-out's, which is nobody's claim."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel, **kwargs)
        except Exception as error:
            raise UnreadableError(error) from error
        if ENTRY in payload:
            self.held = channel.held

    def _decode(self) -> Any:
        # What kombu does for JSON, past its decoder for types that JSON does not have; whatever is odd is kombu's.
        usual = self.content_type == _JSON and self.content_encoding == "utf-8"
        if usual and self.accept and _JSON in self.accept and registry._decoders.get(_JSON) is loads:  # noqa: SLF001  kombu has no public look-up
            try:
                return read(self.body)
            except Exception:  # noqa: BLE001  kombu's own decoder says what is wrong, in its own way
                return super()._decode()
        return super()._decode()


def is_owned(tag: object) -> bool:
    """Whether a message with this delivery tag is a claim of ours: then it is a number, while kombu makes UUIDs."""
    return isinstance(tag, str) and tag.isdigit()


def read(raw: bytes) -> Any:
    """What kombu makes of a message's bytes, in half the time where no value is of a type that JSON does not have."""
    text = raw.decode()
    if _TYPED in text or _ESCAPED in text:
        return loads(text)
    try:
        value, end = _decode(text)
    except ValueError:
        end = -1
    return value if end == len(text) else json.loads(text)  # with blanks around it, or none at all: it says why


def rewritten(raw: bytes, change: Callable[[Any], object]) -> bytes:
    """The message as `change` leaves its payload; bytes that are none stay as they are."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        payload = loads(bytes_to_str(raw))
        change(payload)
        return str(dumps(payload)).encode()
    return raw


def redelivered(raw: bytes) -> bytes:
    """The message marked as delivered before, as stock workers mark it."""
    return rewritten(raw, mark_redelivered)


def mark_redelivered(payload: Any) -> None:
    """Raises what a payload raises that is no message's."""
    payload.setdefault("headers", {})["redelivered"] = True
    payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
