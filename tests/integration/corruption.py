"""Messages spoilt in every way, made from sound ones by a seeded generator: no two runs of a seed differ."""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 10**30, 1.5, "", "x", "\ud800", "é" * 50, [], [1], ["args"], {}, {"task": 1}, [[[[]]]], {"a": {}},
)  # fmt: skip


def sound(chance: random.Random, number: int) -> dict[str, Any]:
    """A message of `tasks.noted(number)`."""
    task_id = str(uuid.UUID(int=chance.getrandbits(128)))
    body = json.dumps([[number], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return {
        "body": base64.b64encode(body.encode()).decode(), "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": "tasks.noted", "id": task_id, "root_id": task_id, "parent_id": None,
                    "group": None, "argsrepr": "()", "kwargsrepr": "{}", "retries": 0, "eta": None, "expires": None,
                    "timelimit": [None, None], "origin": "a test", "ignore_result": True, "shadow": None,
                    "group_index": None, "stamped_headers": None, "stamps": {}, "replaced_task_nesting": 0},
        "properties": {"correlation_id": task_id, "reply_to": "r", "delivery_mode": 2, "priority": 0,
                       "body_encoding": "base64", "delivery_tag": str(uuid.UUID(int=chance.getrandbits(128))),
                       "delivery_info": {"exchange": "", "routing_key": "celery"}},
    }  # fmt: skip


def _text(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def _body(message: dict[str, Any], body: Any) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _text({**message, "body": base64.b64encode(text).decode()})


def _truncated(chance: random.Random, message: dict[str, Any]) -> bytes:
    raw = _text(message)
    return raw[: chance.randrange(len(raw))]


def _flipped(chance: random.Random, message: dict[str, Any]) -> bytes:
    raw = bytearray(_text(message))
    for _ in range(chance.randint(1, 8)):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return bytes(raw)


def _odd_field(chance: random.Random, message: dict[str, Any]) -> bytes:
    table = chance.choice([message, message["headers"], message["properties"], message["properties"]["delivery_info"]])
    name = chance.choice([key for key in table if key not in ("eta", "expires")])
    table[name] = chance.choice(ODD)
    return _text(message)


def _missing_field(chance: random.Random, message: dict[str, Any]) -> bytes:
    table = chance.choice([message, message["headers"], message["properties"]])
    del table[chance.choice(list(table))]
    return _text(message)


def _odd_body(chance: random.Random, message: dict[str, Any]) -> bytes:
    payload: list[Any] = json.loads(base64.b64decode(message["body"]))
    if chance.random() < 0.3:
        return _body(message, chance.choice(ODD))
    if chance.random() < 0.5:
        payload[chance.randrange(3)] = chance.choice(ODD)
    else:
        payload[2][chance.choice(list(payload[2]))] = chance.choice(ODD)
    return _body(message, payload)


def _no_json_body(chance: random.Random, message: dict[str, Any]) -> bytes:
    return _body(message, chance.choice([b"", b"\xff\xfe", chance.randbytes(40), b"{", b"[" * 60_000, b'"\xc3"']))


def _wrong_call(chance: random.Random, message: dict[str, Any]) -> bytes:
    args, kwargs = chance.choice([([], {}), ([1, 2], {}), ([1], {"number": 2}), ([1], {"nope": 1})])
    return _body(message, [args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


def _unknown_task(chance: random.Random, message: dict[str, Any]) -> bytes:
    message["headers"]["task"] = f"tasks.gone_{chance.randrange(1000)}"
    return _text(message)


def _no_envelope(chance: random.Random, message: dict[str, Any]) -> bytes:
    return chance.choice([
        b"", b"null", b"42", b"[]", b"{}", b'"text"', chance.randbytes(chance.randint(1, 200)), b"[" * 100_000,
        b'{"a":' * 50_000, b"x" * 300_000, _text(message).decode().encode("utf-16"), _text({"properties": message}),
    ])  # fmt: skip


KINDS: tuple[Callable[[random.Random, dict[str, Any]], bytes], ...] = (
    _truncated, _flipped, _odd_field, _missing_field, _odd_body, _no_json_body, _wrong_call, _unknown_task,
    _no_envelope,
)  # fmt: skip


def spoilt(seed: int, count: int) -> Iterator[bytes]:
    """`count` messages, each kind in turn."""
    chance = random.Random(seed)
    for number in range(count):
        yield KINDS[number % len(KINDS)](chance, sound(chance, number))
