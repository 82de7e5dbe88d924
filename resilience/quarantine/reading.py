"""A queue's message as it lies in Redis: what it says of itself, and how it goes back. Pure; the bytes are hostile."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from resilience.delivery.deaths import DEATHS, FIRST, count_of
from resilience.recovery.deadline import DEADLINE_HEADER
from resilience.recovery.failover import HEADER, journey_of
from signals.redact import redact_value

REPLAYS_HEADER = "celeriac-replays"
"""How often a message was replayed; it travels with the message, so that a cap holds."""

FORGOTTEN = ("redelivered", DEADLINE_HEADER, DEATHS, FIRST)
"""Headers that a replayed message does not have: it begins anew."""

_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
_BODY_LIMIT = 1_000_000


class ReplayError(ValueError):
    """A message cannot be replayed as it was asked; the message is one sentence."""


@dataclass(frozen=True)
class Reading:
    """What a message says of itself; empty where it says nothing that can be used."""

    envelope: dict[str, Any] | None = field(repr=False)
    task: str = ""
    task_id: str = ""
    arguments: str = ""
    home: str = ""
    retries: int = 0
    replays: int = 0
    deaths: int = 0
    priority: int = 0
    hops: tuple[tuple[str, str, str, int], ...] = ()
    key: str = ""


def read(raw: bytes) -> Reading:
    """Never raises."""
    try:
        envelope = json.loads(raw)
        headers, properties = envelope.get("headers") or {}, envelope["properties"]
        told = {**_body(envelope), **headers}
        journey = journey_of(headers, "")
        return Reading(
            envelope,
            task=_text(told.get("task")),
            task_id=_text(told.get("id")),
            arguments=" ".join(_text(told.get(name)) for name in ("argsrepr", "kwargsrepr")).strip(),
            home=journey.home,
            retries=_count(told.get("retries")),
            replays=_count(headers.get(REPLAYS_HEADER)),
            deaths=count_of(headers),
            priority=_priority(properties),
            hops=tuple((hop.origin, hop.destination, hop.reason, hop.level) for hop in journey.hops),
            key=_key(envelope),
        )
    except _UNREADABLE:
        return Reading(None)


def shown(raw: bytes) -> Any:
    """The message for people and programs: headers, properties and body as data, without secrets."""
    try:
        envelope = json.loads(raw)
        body = _body_text(envelope)
    except _UNREADABLE:
        return redact_value(raw)
    with suppress(*_UNREADABLE):  # another serializer, or nonsense: it is shown as it is
        body = json.loads(body)
    return redact_value({**envelope, "body": body})


def fresh(raw: bytes, queue: str, tag: str, now_s: float, force: bool) -> bytes:
    """The message as if it were sent to `queue` now: no deadline, no retries spent, no deaths, at home; replays + 1.

    `tag` is its new delivery tag. Raises ReplayError for an expired message, or for bytes that are none: with
    `force` the first loses its expiry, the second goes as it is.
    """
    reading = read(raw)
    envelope = reading.envelope
    if envelope is None:
        if force:
            return raw
        raise ReplayError("it is no message that a worker could read; with force its bytes go back as they are")
    headers = dict(envelope.get("headers") or {})
    expired = _expired(headers.get("expires"), now_s)
    if expired and not force:
        raise ReplayError(f"it expired at {expired}, so a worker would drop it; with force it goes without its expiry")
    for name in FORGOTTEN:
        headers.pop(name, None)
    if expired:
        headers["expires"] = None
    if HEADER in headers:
        sent = journey_of(headers, "").task
        if sent:
            headers["task"] = sent  # another one stood in for it
        headers.pop(HEADER)  # it starts at home: what it went through is told by the record
    if "retries" in headers:
        headers["retries"] = 0
    headers[REPLAYS_HEADER] = reading.replays + 1
    properties = {**envelope["properties"], "delivery_tag": tag}
    address = properties.get("delivery_info")
    known = dict(address) if isinstance(address, dict) else {}
    known.pop("redelivered", None)
    properties["delivery_info"] = {**known, "exchange": "", "routing_key": queue}
    return json.dumps({**envelope, "headers": headers, "properties": properties}).encode()


def rebuilt(message: Any) -> bytes:
    """A received message as kombu would lay it into a Redis list; for brokers whose own form is another one."""
    body = message.body if isinstance(message.body, bytes) else str(message.body or "").encode()
    headers = {name: value for name, value in (message.headers or {}).items() if name != "compression"}
    address = message.delivery_info or {}
    properties = {
        **(message.properties or {}),
        "body_encoding": "base64",
        "delivery_tag": str(message.delivery_tag),
        "delivery_info": {name: address.get(name) for name in ("exchange", "routing_key")},
    }
    envelope = {
        "body": base64.b64encode(body).decode(), "content-type": message.content_type,
        "content-encoding": message.content_encoding, "headers": headers, "properties": properties,
    }  # fmt: skip
    return json.dumps(envelope, default=str).encode()


def body_bytes(envelope: Mapping[str, Any]) -> Any:
    """The body without its transfer encoding. Raises ValueError, KeyError, TypeError or AttributeError."""
    body = envelope.get("body")
    if envelope["properties"].get("body_encoding") == "base64" and isinstance(body, str):
        return base64.b64decode(body)
    return body


def _body_text(envelope: Mapping[str, Any]) -> Any:
    body = body_bytes(envelope)
    return body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body


def _body(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """What protocol 1 writes into the body: name, id, retries."""
    if "task" in (envelope.get("headers") or {}) or len(str(envelope.get("body") or "")) > _BODY_LIMIT:
        return {}
    try:
        values = json.loads(_body_text(envelope))
    except _UNREADABLE:
        return {}
    return values if isinstance(values, dict) else {}


def _key(envelope: Mapping[str, Any]) -> str:
    """The same for every delivery of one sent message, and for no two messages: "" when it has no tag of its own."""
    properties = dict(envelope["properties"])
    if not _text(properties.get("delivery_tag")):
        return ""
    properties.pop("delivery_info", None)
    headers = {name: value for name, value in (envelope.get("headers") or {}).items() if name not in FORGOTTEN}
    text = json.dumps([envelope.get("body"), headers, properties], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return min(value, 1_000_000) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _priority(properties: Mapping[str, Any]) -> int:
    try:
        return int(properties.get("priority") or 0)
    except (TypeError, ValueError, OverflowError):
        return 0  # kombu reads an unusable priority as 0 too


def _expired(expires: object, now_s: float) -> str:
    """When it expired, if it did."""
    if not isinstance(expires, str):
        return ""
    try:
        at = datetime.fromisoformat(expires.replace("Z", "+00:00"))
    except ValueError:
        return ""
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return at.isoformat(timespec="seconds") if at.timestamp() <= now_s and math.isfinite(now_s) else ""
