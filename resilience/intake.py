"""What the consumer cannot take goes into the quarantine: no message ends the worker, and none is thrown away.

Celery's own handlers still say what happened, record the failure of an unknown task, and tell its signals; but only
after the quarantine has the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from celery.worker import state as worker_state
from kombu.exceptions import ContentDisallowed

from resilience.exits import Exits
from resilience.quarantine.record import Reason
from resilience.quarantine.task_message import fault_of
from signals.redact import describe

logger = logging.getLogger("celeriac")

Handle = Callable[[Any], Any]


def guard(consumer: Any, exits: Exits) -> None:
    """Put the quarantine between `consumer` and what it would reject, or end by."""
    if not exits.on:
        return
    intake = Intake(consumer, exits)
    consumer.on_decode_error = intake.on_decode_error
    consumer.on_unknown_message = intake.on_unknown_message
    consumer.on_unknown_task = intake.on_unknown_task
    consumer.on_invalid_task = intake.on_invalid_task
    consumer.create_task_handler = intake.create_task_handler


class Intake:
    """Stands in for five methods of Celery's consumer, and calls each of them."""

    def __init__(self, consumer: Any, exits: Exits) -> None:
        self._consumer = consumer
        self._exits = exits
        self._decode_error = consumer.on_decode_error
        self._unknown_message = consumer.on_unknown_message
        self._unknown_task = consumer.on_unknown_task
        self._invalid_task = consumer.on_invalid_task
        self._create_task_handler = consumer.create_task_handler

    # -- what Celery itself finds out --------------------------------------------------------------------------

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._leave(message, Reason.UNDECODABLE, describe(exc), lambda: self._decode_error(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._leave(
            message, Reason.MALFORMED, "it names no task", lambda: self._unknown_message(body, message)
        )  # fmt: skip

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        detail = f"this worker has no task {exc}"
        self._leave(message, Reason.UNKNOWN_TASK, detail, lambda: self._unknown_task(body, message, exc))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        reason = Reason.UNDECODABLE if isinstance(exc, ContentDisallowed) else Reason.MALFORMED
        self._leave(message, reason, describe(exc), lambda: self._invalid_task(body, message, exc))

    # -- what Celery would stumble over ------------------------------------------------------------------------

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Handle:
        handle = self._create_task_handler(*args, **kwargs)
        strategies, connection_errors = self._consumer.strategies, self._consumer.connection_errors

        def on_task_received(message: Any) -> None:
            try:
                headers = message.headers
                task = headers.get("task", "")
                if type(task) is not str:
                    self.on_unknown_message(None, message)
                elif task not in strategies and "task" in headers:
                    handle(message)  # unknown here: its body is nobody's business
                elif self._is_sound(message, headers):
                    handle(message)
            except connection_errors:
                raise
            except Exception as error:
                if isinstance(error, MemoryError) or _was_begun(message):
                    raise  # the worker's own trouble, not the message's
                self._stumbled(message, error)

        return on_task_received

    def _is_sound(self, message: Any, headers: Any) -> bool:
        try:
            payload = message.payload
        except Exception as error:  # noqa: BLE001  decoders raise what they like
            self._consumer.on_decode_error(message, error)
            return False
        fault = self._fault(message, headers, payload)
        if not fault:
            return True
        self._leave(message, Reason.MALFORMED, fault, lambda: self._reject(message, fault))
        return False

    def _fault(self, message: Any, headers: Any, payload: Any) -> str:
        if not isinstance(message.delivery_info, dict):
            return "its delivery_info is not a table"
        if isinstance(payload, dict):  # protocol 1, or a mixture of 1 and 2
            told = {**payload, **headers}
            if type(told.get("task")) is not str:
                return "it names no task"
            args, kwargs = payload.get("args", ()), payload.get("kwargs", {})
            fault = fault_of(told, args, kwargs, payload)
        elif isinstance(payload, (list, tuple)) and len(payload) == 3 and "task" in headers:
            told = headers
            fault = fault_of(told, *payload)
        else:
            return "its body is not a task's"
        if fault or (told.get("eta") is None and told.get("expires") is None):
            return fault
        for name in ("eta", "expires"):
            if told.get(name) is not None and not self._is_time(told[name]):
                return f"its {name} is no time"
        return ""

    def _is_time(self, value: Any) -> bool:
        if not isinstance(value, (str, datetime)):
            return False
        try:
            aware = maybe_make_aware(maybe_iso8601(value), self._consumer.app.conf.timezone)
            timezone.to_system(aware).timestamp()
        except (ValueError, OverflowError, TypeError, AttributeError):
            return False
        return True

    # -- out ---------------------------------------------------------------------------------------------------

    def _stumbled(self, message: Any, error: Exception) -> None:
        detail = describe(error)
        if message.acknowledged:
            logger.warning("celeriac: a message was settled, and then: %s", detail)
            return
        self._leave(message, Reason.MALFORMED, detail, lambda: self._reject(message, detail))

    def _leave(self, message: Any, reason: Reason, detail: str, tell: Callable[[], object]) -> None:
        arrival = self._exits.of_message(message, reason, detail)
        self._exits.leave(arrival, lambda: self._settle(message, tell))

    def _settle(self, message: Any, tell: Callable[[], object]) -> None:
        """Celery's own handling, which rejects the message; and if that stumbles over it, only the rejection."""
        try:
            tell()
        except self._consumer.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001  hostile contents: the quarantine has it, that is enough
            logger.warning("celeriac: Celery could not tell of a message that is in quarantine: %s", describe(error))
        if not message.acknowledged:
            message.reject_log_error(logger, self._consumer.connection_errors)

    def _reject(self, message: Any, fault: str) -> None:
        logger.error("celeriac: a message was refused: %s", fault)
        message.reject_log_error(logger, self._consumer.connection_errors)


def _was_begun(message: Any) -> bool:
    """Whether the worker had taken it on as a request; only asked when something went wrong."""
    everyone = (worker_state.reserved_requests, worker_state.scheduled_requests, worker_state.active_requests)
    return any(request.message is message for some in everyone for request in tuple(some))
