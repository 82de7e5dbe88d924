"""Secrets out of text and data, before an error travels to a log, an event, a queue or a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from itertools import islice
from typing import Any, TypeAlias

from signals.secret_rules import HIDDEN, SecretRules

__all__ = [
    "HIDDEN",
    "JsonValue",
    "describe",
    "hide_names",
    "is_secret_name",
    "one_line",
    "redact",
    "redact_value",
    "type_name",
]

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

TEXT_LIMIT = 2_000
"""Characters of one string in redacted data."""
ITEMS_LIMIT = 100
"""Items of one list or mapping in redacted data."""
NODES_LIMIT = 1_000
"""Values in redacted data, all levels together."""
CHARACTERS_LIMIT = 50_000
"""Characters in redacted data, keys apart."""
DEPTH_LIMIT = 8

_CUT = "…"
_MARGIN = 512  # a secret that a cut parts in two is no longer recognised, so this much before a cut is dropped

_rules = SecretRules()


def hide_names(names: Iterable[str]) -> None:
    """From now on in this process, hide the values of these names too (`x-pin: 1234`). Twice is once."""
    _rules.add(names)


def is_secret_name(name: str | bytes) -> bool:
    """Whether what is kept under `name` is a secret: `X-Api-Key` and `client_secret` are, `max_tokens` is not."""
    return _rules.is_secret_name(_decoded(name[-400:]))


def redact(text: str) -> str:
    """`text` with passwords in URLs, Authorization values, API keys and secret-looking assignments blanked."""
    lowered = text.lower()
    for markers, pattern, replacement in _rules.text_rules:
        for marker in markers:  # a plain loop: any() costs more than all the regular expressions that it saves
            if marker in lowered:
                text = pattern.sub(replacement, text)
                break
    return text


def describe(error: BaseException, limit: int = 300) -> str:
    """An exception as one redacted line of at most `limit` characters; safe when its `__str__` raises."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  somebody's __str__ is broken; the type still says something
        text = "(no message: its __str__ raises)"
    name = type_name(error)
    return one_line(f"{name}: {text}" if text else name, limit)


def type_name(thing: object) -> str:
    """The name of its class, whatever the class says of itself."""
    return str(type.__dict__["__name__"].__get__(type(thing)))


def one_line(text: str, limit: int) -> str:
    """`text` redacted, its white space made single blanks, at most `limit` characters."""
    return text and _cut(" ".join(_redact_some(text, limit).split()), limit)


def redact_value(value: object) -> JsonValue:
    """`value` as plain data that a strict `json.dumps` takes as it is: without secrets, and of bounded size.

    Values under secret-looking names are hidden, and so is the second of a pair (`["x-api-key", "..."]`). Bytes are
    read as text; what is no plain data is shown by its `str`; what is too much is cut, and says so. Never raises.
    """
    return _Redaction().of(value, 0)


class _Redaction:
    """One walk through data; how much it may still show is shared by all levels."""

    def __init__(self) -> None:
        self._left = NODES_LIMIT
        self._characters_left = CHARACTERS_LIMIT

    def of(self, value: Any, depth: int) -> JsonValue:
        self._left -= 1
        try:
            return self._of(value, depth)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  somebody's object breaks when it is read; that must not cost the rest
            return f"(a {type_name(value)} that cannot be shown: reading it raises)"

    def _of(self, value: Any, depth: int) -> JsonValue:  # noqa: PLR0911  one line per kind of value
        kind = type(value)  # not isinstance: it believes an object that lies about its class
        if value is None or kind is bool:
            return None if value is None else bool(value)
        if issubclass(kind, Enum):
            return self._of(value.value, depth)
        if issubclass(kind, (str, bytes, bytearray)):
            return self._text(value)
        if issubclass(kind, int):
            number = int(value)
            return number if -(2**63) <= number < 2**63 else f"(an integer of {number.bit_length()} bits)"
        if issubclass(kind, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if issubclass(kind, BaseException):
            return describe(value)
        if issubclass(kind, (Mapping, list, tuple, set, frozenset)):
            return self._container(value, depth)
        return self._text(str(value))

    def _text(self, value: str | bytes) -> str:
        shown = _plain(value, min(TEXT_LIMIT, self._characters_left))
        self._characters_left = max(1, self._characters_left - len(shown))
        return shown

    def _container(self, value: Any, depth: int) -> JsonValue:
        if depth >= DEPTH_LIMIT:
            return f"(a {type_name(value)}, too deep to show)"
        if issubclass(type(value), Mapping):
            return dict(self._items(value, depth))
        return list(self._elements(value, depth))

    def _items(self, mapping: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, JsonValue]]:
        shown: set[str] = set()
        for number, (key, value) in enumerate(islice(mapping.items(), ITEMS_LIMIT)):
            if self._left <= 0:
                break
            name = key if _is_text(key) else str(key)
            label = _plain(name, 200)
            if label in shown:
                label += f" ({number})"  # two keys may look the same once they are redacted
            shown.add(label)
            yield label, HIDDEN if is_secret_name(name) else self.of(value, depth + 1)
        if len(mapping) > len(shown):
            yield _CUT, f"{len(mapping) - len(shown)} more"

    def _elements(self, values: Any, depth: int) -> Iterator[JsonValue]:
        size, shown, hide_second = len(values), 0, False
        for element in islice(values, ITEMS_LIMIT):
            if self._left <= 0:
                break
            yield HIDDEN if hide_second else self.of(element, depth + 1)
            shown += 1
            hide_second = size == 2 and shown == 1 and _is_text(element) and is_secret_name(element)
        if size > shown:
            yield f"{_CUT} {size - shown} more"


def _is_text(value: Any) -> bool:
    return issubclass(type(value), (str, bytes, bytearray))


def _decoded(text: str | bytes) -> str:
    """Text that UTF-8 can carry: no half of a surrogate pair."""
    raw = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else bytes(text)
    return raw.decode("utf-8", "backslashreplace")


def _plain(text: str | bytes, limit: int) -> str:
    return _cut(_redact_some(_decoded(text[: _reach(limit) + 1]), limit), limit)


def _redact_some(text: str, limit: int) -> str:
    """As much of `text`, redacted, as a result of `limit` characters may need."""
    if len(text) <= _reach(limit):
        return redact(text)
    shown = redact(text[: _reach(limit)])
    return (shown if shown.endswith(HIDDEN) else shown[:-_MARGIN]) + _CUT


def _reach(limit: int) -> int:
    return 2 * limit + 2 * _MARGIN


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + _CUT
