"""Secrets out of data: what comes back is plain, strict JSON, bounded, and holds nothing that was planted."""

from __future__ import annotations

import json
import time
from collections import OrderedDict, deque
from datetime import datetime, timezone
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signals.redact import HIDDEN, redact_value

SECRET = "hunter2-Tr0ub4dor"


def strict(value: object) -> str:
    """As JSON, by a strict encoder, and as bytes, by a strict codec."""
    text = json.dumps(redact_value(value), allow_nan=False)
    json.dumps(redact_value(value), allow_nan=False, ensure_ascii=False).encode()
    return text


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (1.5, 1.5),
        ("plain", "plain"),
        ({"model": "m", "n": [1, "two", None]}, {"model": "m", "n": [1, "two", None]}),
        ((1, 2, 3), [1, 2, 3]),
        (frozenset({4}), [4]),
        (deque([1, 2]), "deque([1, 2])"),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (b"caf\xc3\xa9", "café"),
        (b"\xff\x00", "\\xff\x00"),
        (bytearray(b"abc"), "abc"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**30, "(an integer of 100 bits)"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (datetime(2026, 3, 1, tzinfo=timezone.utc), "2026-03-01 00:00:00+00:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a/b"), "/a/b"),
        (ValueError("no"), "ValueError: no"),
        ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "None": "b", "(1, 2)": "c"}),
        ("half a pair \ud800", "half a pair \\ud800"),
    ],
)
def test_plain_data_stays_and_the_rest_becomes_plain(value: object, expected: object) -> None:
    assert redact_value(value) == expected
    strict(value)


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"password": 12345678901234567},
        {"headers": {"X-Api-Key": SECRET, "Accept": "*/*"}},
        {"headers": [["X-Api-Key", SECRET]]},
        {"headers": [(b"authorization", SECRET.encode())]},
        {"nested": [{"deep": [{"client_secret": [SECRET, {"a": SECRET}]}]}]},
        {"body": json.dumps({"password": SECRET})},
        {"body": f"password={SECRET}".encode()},
        {"url": httpx.URL(f"https://u:{SECRET}@api.example/v1")},
        {"error": ConnectionError(f"redis://:{SECRET}@cache")},
        {f"redis://:{SECRET}@cache": 1},
        {b"token": SECRET},
        {"env": {"DB_PASS": SECRET}, "cookies": {"sid": SECRET}},
        [f"Bearer {SECRET}"],
        ("api_key", SECRET),
    ],
)
def test_a_planted_secret_is_gone(value: object) -> None:
    shown = strict(value)
    assert SECRET not in shown
    assert "12345678901234567" not in shown
    assert HIDDEN in shown


def test_two_keys_that_look_alike_once_redacted_both_stay() -> None:
    assert redact_value({"sk-aaaaaaaaaaaa": 1, "sk-bbbbbbbbbbbb": 2}) == {HIDDEN: 1, f"{HIDDEN} (1)": 2}


def test_a_list_of_two_words_is_no_pair_unless_the_first_names_a_secret() -> None:
    assert redact_value(["model", "gpt"]) == ["model", "gpt"]
    assert redact_value(["password", "user", "email"]) == ["password", "user", "email"]


# -- bounds --------------------------------------------------------------------------------------------------------


def test_what_is_too_much_is_cut_and_says_so() -> None:
    shown: Any = redact_value({"text": "x" * 10_000, "list": list(range(1_000)), "map": {i: i for i in range(500)}})
    assert (len(shown["text"]), shown["text"][-1]) == (2_000, "…")
    assert (len(shown["list"]), shown["list"][-1]) == (101, "… 900 more")
    assert (len(shown["map"]), shown["map"]["…"]) == (101, "400 more")


def test_data_that_contains_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "too deep to show" in strict(loop)
    both: dict[str, Any] = {}
    both["a"] = both["b"] = both
    assert len(strict(both)) < 100_000


def test_huge_data_takes_no_long_time() -> None:
    tree: Any = "x" * 100_000
    for _ in range(6):
        tree = [tree] * 50
    began = time.process_time()
    assert len(strict({"tree": tree, "bytes": b"y" * 10_000_000, "text": "z" * 10_000_000})) < 100_000
    assert time.process_time() - began < 1.0


# -- hostile objects -----------------------------------------------------------------------------------------------


class _Mute:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


class _NoDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError(SECRET)

    __iter__ = __len__ = items


class _Liar:
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return dict

    def __str__(self) -> str:
        return "a liar"


class _LyingInt(int):
    def __int__(self) -> int:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize("value", [_Mute(), _NoDict(a=1), _LyingInt(3)])
def test_an_object_that_breaks_when_it_is_read_is_named(value: object) -> None:
    shown: Any = redact_value({"before": 1, "it": value, "after": 2})
    assert (shown["before"], shown["after"]) == (1, 2)
    assert shown["it"] == f"(a {type(value).__name__} that cannot be shown: reading it raises)"


def test_an_object_that_lies_about_its_class_is_shown_by_its_words() -> None:
    assert redact_value(_Liar()) == "a liar"


_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.sampled_from([_Mute(), _Liar(), _LyingInt(), Colour.RED, object(), 1 + 2j, "\ud800", SECRET]),
)  # fmt: skip
_KEYS = st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.sampled_from(["password", "x-api-key"]))
_DATA = st.recursive(
    _LEAVES, lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(_KEYS, inner))
)


@given(_DATA)
def test_whatever_it_is_it_becomes_strict_json(value: object) -> None:
    strict(value)


@given(_DATA)
def test_a_secret_under_a_secret_name_never_shows(value: object) -> None:
    assert "planted" not in strict({"outer": [{"api_key": ["planted", value]}, ("password", "planted")]})
