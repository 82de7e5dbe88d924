"""Sentry: one event per opened circuit and per quarantined message, and no secret in any event that this process sends.

Initialising `sentry_sdk` is the user's; a process that did not import it never does so because of us, and a process
without an active client is left alone.

Where the scrubbing sits: as the last `before_send` of whatever client is active. An event processor would come too
early: those of the isolation scope (Celery's, which adds the task's arguments; Django's, which adds the request) run
after the global ones, and objects become text only after all of them. So our processor adds nothing to the event; it
sees to it that the client about to send it has `scrub` for its last word, whenever and however often it was made.
"""

from __future__ import annotations

import atexit
import os
import sys
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from signals.background import Background
from signals.events import CircuitChanged, Event, MessageQuarantined
from signals.redact import redact
from signals.sinks.sentry_scrub import scrub, scrubbed

if TYPE_CHECKING:
    from sentry_sdk.types import Event as SentryEvent
    from sentry_sdk.types import Hint

__all__ = ["guard_clients", "scrub", "scrubbed", "sentry_sink"]

END_WITHIN_S = 2.0
"""How long the end of a process waits for its last event to leave."""

_LEVELS = {"open": "error", "forced_open": "warning"}
_HOOKS = ("before_send", "before_send_transaction", "before_send_log", "before_send_metric", "before_send_span")
_TAG_LIMIT = 200  # Sentry drops a tag whose value is longer


def sentry_sink() -> Callable[[Event], None]:
    """A sink that sends an event per opened circuit and per quarantined message, from a thread of its own.

    Also guards this process's clients.
    """
    sink = _Sink()
    _guard_when_ready()
    return sink


class _Sink:
    def __init__(self) -> None:
        from celery.signals import worker_process_shutdown

        self._background = Background(_send)
        self._sent_by = 0
        worker_process_shutdown.connect(self._ends, weak=False)  # a child of the prefork pool has no `atexit`
        atexit.register(self._ends)

    def __call__(self, event: Event) -> None:
        told = isinstance(event, MessageQuarantined) or (isinstance(event, CircuitChanged) and event.new in _LEVELS)
        if told and _active_client() is not None:
            self._sent_by = os.getpid()
            self._background(event)

    def _ends(self, **_: Any) -> None:
        """Only here does anybody wait: a flush holds a lock of the SDK, which a child forked meanwhile inherits."""
        if self._sent_by != os.getpid():
            return
        self._background.drain(END_WITHIN_S)
        client = _active_client()
        if client is not None:
            client.flush(END_WITHIN_S)


def _send(event: Event) -> None:
    """Capture `event` on scopes of its own: those of the task under way belong to its own errors."""
    import sentry_sdk
    from sentry_sdk.scope import Scope, ScopeType, use_isolation_scope, use_scope

    if isinstance(event, CircuitChanged):
        payload = _opening(event)
    elif isinstance(event, MessageQuarantined):
        payload = _quarantined(event)
    else:
        return
    with use_isolation_scope(Scope(ty=ScopeType.ISOLATION)), use_scope(Scope(ty=ScopeType.CURRENT)):
        guard_clients()
        sentry_sdk.capture_event(payload)


def _opening(event: CircuitChanged) -> SentryEvent:
    """Grouped by circuit; the values were redacted here, whatever becomes of the guard."""
    wait = f" for {event.open_s:.1f} s" if event.new == "open" else ""
    payload: SentryEvent = scrub({
        "event_id": uuid.uuid4().hex,
        "level": _LEVELS[event.new],
        "logger": "celeriac",
        "message": f"circuit {event.name}: {event.old} -> {event.new}{wait} ({event.reason})",
        "fingerprint": ["celeriac", "circuit-open", event.name],
        "tags": {"circuit": _tag(event.name), "epoch": str(event.epoch), "reason": _tag(event.reason)},
        "contexts": {"circuit": {**event.fields(), "to_see_more": f"celery -A APP breaker show {event.name}"}},
    })  # fmt: skip
    return payload


def _quarantined(event: MessageQuarantined) -> SentryEvent:
    """Grouped by task and reason, so that a flood is one issue."""
    task = event.task or "a message"
    payload: SentryEvent = scrub({
        "event_id": uuid.uuid4().hex,
        "level": "error",
        "logger": "celeriac",
        "message": f"{task} in quarantine: {event.reason}" + (f": {event.detail}" if event.detail else ""),
        "fingerprint": ["celeriac", "quarantine", event.task, event.reason],
        "tags": {"task": _tag(event.task), "queue": _tag(event.queue), "reason": _tag(event.reason)},
        "contexts": {"quarantine": {**event.fields(), "to_see_more": f"celery -A APP quarantine show {event.id}"}},
    })  # fmt: skip
    return payload


def _tag(text: str) -> str:
    line = " ".join(redact(text).split())
    return line if len(line) <= _TAG_LIMIT else line[: _TAG_LIMIT - 1] + "…"


# -- the guard ---------------------------------------------------------------------------------------------------------


def guard_clients() -> bool:
    """See to it that `scrub` has the last word in this process's Sentry clients, those of later too.

    Safe to call often. True if a client is active and guarded; False if the process does not use Sentry so far.
    """
    if "sentry_sdk" not in sys.modules:
        return False
    from sentry_sdk.scope import add_global_event_processor, global_event_processors

    if _guard_sender not in global_event_processors:
        add_global_event_processor(_guard_sender)
    client = _active_client()
    if client is None:
        return False
    _guard(client)
    return True


def _guard_sender(event: SentryEvent, _hint: Hint) -> SentryEvent:
    """An event processor: the client is about to read its hooks."""
    client = _active_client()
    if client is not None:
        _guard(client)
    return event


def _guard(client: Any) -> None:
    options = client.options
    early = options.get("_experiments") or {}
    for hook in _HOOKS:
        options[hook] = scrubbed(options.get(hook) or early.get(hook))


def _active_client() -> Any:
    if "sentry_sdk" not in sys.modules:
        return None
    import sentry_sdk

    client = sentry_sdk.get_client()
    return client if client.is_active() else None


def _guard_when_ready() -> None:
    """Now, when a worker or one of its children begins, and before tasks until a client is there.

    The last is for a client that the user makes in a receiver of those signals which is called after ours.
    """
    from celery import signals

    for signal in (signals.celeryd_init, signals.worker_init, signals.worker_process_init, signals.beat_init):
        signal.connect(_begins, weak=False, dispatch_uid="celeriac:sentry")
    signals.task_prerun.connect(_before_task, weak=False, dispatch_uid="celeriac:sentry")
    guard_clients()


def _begins(**_: Any) -> None:
    guard_clients()


def _before_task(**_: Any) -> None:
    if "sentry_sdk" in sys.modules and guard_clients():
        from celery.signals import task_prerun

        task_prerun.disconnect(dispatch_uid="celeriac:sentry")
