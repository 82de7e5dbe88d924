"""Secrets out of what goes to Sentry: every string of a payload is redacted, or the payload stays here.

Knows the shape of Sentry's payloads, not its SDK: nothing here imports `sentry_sdk`. Why by name as well as by
pattern: in `{"password": "hunter2"}`, in a frame's locals and in log parameters the value alone looks like nothing.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from signals.redact import HIDDEN, is_secret_name, redact

MAX_DEPTH = 40
MAX_NODES = 300_000

Payload = Any
Hook = Callable[[Any, Any], "Any | None"]
"""A `before_send` of Sentry: (event, hint) to the event to send, or None for none."""


class _PayloadTooLargeError(ValueError):
    pass


def scrub(event: Payload, hint: Any = None) -> Payload:
    """A `before_send`, `before_send_transaction`, `before_send_log` or `before_breadcrumb` for `sentry_sdk.init`.

    Returns a redacted copy; None for what is no error: a call that an open circuit refused, Celery's own control flow
    (Ignore, Reject, Retry), and log lines of events that have an exit of their own. Never raises: an event that
    cannot be redacted is replaced by one that says so and holds nothing of it; any other such payload is dropped.
    """
    try:
        return None if _is_no_error(event, hint) else _Scrubber().payload(event)
    except Exception as error:  # noqa: BLE001  whatever the payload was, it must not leave as it is
        return _withheld(event, error)


@dataclass(frozen=True)
class Scrubbed:
    """A hook of the user's with `scrub` after it, so that nothing that it adds escapes."""

    own: Hook | None = None

    def __call__(self, event: Payload, hint: Any = None) -> Payload:
        if self.own is not None:
            event = self.own(event, hint)
        return None if event is None else scrub(event, hint)


def scrubbed(own: Hook | None = None) -> Hook:
    """`own` first, then `scrub`: `sentry_sdk.init(before_send=scrubbed(my_before_send))`.

    What `own` raises is Sentry's to handle: it drops the event.
    """
    return own if isinstance(own, Scrubbed) or own is scrub else Scrubbed(own)


# -- what is sent at all -----------------------------------------------------------------------------------------------

_NO_ERRORS = {("resilience", "CircuitOpenError"), ("celery", "Ignore"), ("celery", "Reject"), ("celery", "Retry")}


def _is_no_error(event: Payload, hint: Any) -> bool:
    raised = hint.get("exc_info") if isinstance(hint, Mapping) else None
    if isinstance(raised, tuple) and raised and isinstance(raised[0], type):
        names = {(cls.__module__.partition(".")[0], cls.__name__) for cls in raised[0].__mro__}
        if names & _NO_ERRORS:
            return True
    # The log sink writes `error` lines, which Sentry's logging integration would turn into events of their own.
    return event.get("logger") == "celeriac" and "celeriac_event" in (event.get("extra") or ())


def _withheld(event: Payload, error: Exception) -> Payload:
    """What is sent instead of an event that could not be redacted; of a transaction, a log or a breadcrumb, nothing."""
    if not isinstance(event, dict) or "event_id" not in event or event.get("type") == "transaction":
        return None
    given = event["event_id"]
    is_id = isinstance(given, str) and re.fullmatch(r"[0-9a-f]{32}", given)
    return {
        "event_id": given if is_id else uuid.uuid4().hex,
        "platform": "python",
        "level": "error",
        "logger": "celeriac",
        "message": f"An event was withheld: its secrets could not be removed ({type(error).__name__}).",
        "fingerprint": ["celeriac", "withheld"],
    }


# -- what holds secrets ------------------------------------------------------------------------------------------------

# Beyond the names that are secrets in any text: what clients and frameworks call theirs, and Celery a task's arguments.
_NAMES = re.compile(
    r"(?:^|[^a-z])(?:auth|jwt|otp|passcode|sid)$|session_?id|csrf|xsrf|bearer|(?:signing|encryption|auth)[_-]?key"
    r"|^(?:args|kwargs)repr$|^sentry\.message\.parameter",
    re.IGNORECASE,
)

# A Celery message inside a string, as a traced Redis command or a log record holds it: the arguments have no shape.
_ARGUMENTS = re.compile(
    r"""(?P<head>(?P<q>\\{0,9}["'])(?:args|kwargs|argsrepr|kwargsrepr)(?P=q):\s?(?P<v>\\{0,9}["']))"""
    r"""(?:(?!(?<!\\)(?P=v)).)+""",
    re.DOTALL,
)
_BODY = re.compile(r"""(?P<head>(?P<q>\\{0,9}")body(?P=q):\s?(?P=q))[A-Za-z0-9+/]{8,}={0,2}""")


# -- how a payload is rewritten ----------------------------------------------------------------------------------------

_MACHINERY = frozenset({"amqp", "billiard", "celery", "kombu", "resilience", "sentry_sdk", "vine"})
"""Packages whose frames hold the task's arguments and messages in their locals, and nothing that explains a failure."""

_PUBLIC = frozenset({"modules", "sdk"})  # names and versions of packages
_SOURCE_LINES = ("pre_context", "context_line", "post_context")
_HEAD_ONLY = rf"\g<head>{HIDDEN}"
_EMPTY = frozenset({"", "''", "b''", "None", "True", "False", "[Filtered]", HIDDEN})


class _Scrubber:
    """One payload's rewriting. Equal strings are redacted once: a transaction repeats the same few hundred."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._names: dict[str, bool] = {}
        self._left = MAX_NODES

    def payload(self, event: Payload) -> Payload:
        public = {key: value for key, value in event.items() if key in _PUBLIC}
        # `_meta` repeats keys of the payload to annotate what was cut; it would have to be rewritten in step.
        rest = {key: value for key, value in event.items() if key not in _PUBLIC and key != "_meta"}
        if isinstance(rest.get("logentry"), Mapping):
            rest["logentry"] = _without_parameters(rest["logentry"])
        return {**self._mapping(rest, 0), **public}

    def _value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _PayloadTooLargeError
        if value is None or isinstance(value, (bool, int, float, date)):
            return value
        if depth >= MAX_DEPTH:
            return "[too deep to redact]"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        # Other objects come only before Sentry has serialized the event, which sends their repr.
        return self._text(value if isinstance(value, str) else repr(value))

    def _mapping(self, values: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        if "vars" in values and "lineno" in values:
            values = _frame(values)
        is_call = "args" in values and "kwargs" in values
        shown: dict[Any, Any] = {}
        for key, value in values.items():
            name = key if isinstance(key, str) else str(key)
            hide = self._is_secret(name) or (is_call and name in ("args", "kwargs"))
            shown[self._text(name)] = _blank(value) if hide else self._value(value, depth + 1)
        return shown

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        items = list(values)
        shown = []
        for index, item in enumerate(items):
            before = items[index - 1] if index else None
            # a pair (name, value) of headers or a query; an option and its value on a command line
            named = self._quotes_secret_name(before) and (len(items) == 2 or str(before).strip("'").startswith("-"))
            shown.append(_blank(item) if named else self._value(item, depth + 1))
        return shown

    def _text(self, text: str) -> str:
        known = self._known.get(text)
        if known is None:
            known = text
            if "args" in text or '"body' in text:
                known = _BODY.sub(_HEAD_ONLY, _ARGUMENTS.sub(_HEAD_ONLY, text))
            known = self._known[text] = redact(known)
        return known

    def _is_secret(self, name: str) -> bool:
        """Whether a value under this name is a secret whatever it looks like."""
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = is_secret_name(name) or _NAMES.search(name[-200:]) is not None
        return known

    def _quotes_secret_name(self, text: Any) -> bool:
        """The same for a name inside a value, as `repr` quotes it: 'password', b'authorization'."""
        return isinstance(text, str) and len(text) <= 80 and self._is_secret(text.removeprefix("b").strip("'\""))


def _blank(value: Any) -> Any:
    """Nothing of a secret's value but that it is there; flags and numbers (`has_password`, `auth: 3`) stay."""
    if isinstance(value, Mapping):
        return {redact(str(key)): HIDDEN for key in value}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value if isinstance(value, str) and value in _EMPTY else HIDDEN


def _frame(frame: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A stack frame without what only machinery keeps, and without a private key that spans its source lines."""
    shown = dict(frame)
    if str(frame.get("module") or "").partition(".")[0] in _MACHINERY:
        shown["vars"] = {}
    if any("PRIVATE KEY" in str(frame.get(part)) for part in _SOURCE_LINES):
        shown.update({"pre_context": [], "context_line": HIDDEN, "post_context": []})
    return shown


def _without_parameters(entry: Mapping[Any, Any]) -> dict[Any, Any]:
    """A log message in one piece: a parameter on its own (`hunter2` of `password=%s`) could not be recognised."""
    whole = dict(entry)
    params = whole.pop("params", None)
    if params and "formatted" not in whole:
        with suppress(TypeError, ValueError):  # they do not fit the message: it is sent as it stands
            whole["formatted"] = str(whole.get("message")) % (params if isinstance(params, Mapping) else tuple(params))
    return whole
