"""Celery's remote control commands, for tasks that are due later as well: revoke, terminate, scheduled, query_task.

They are laid over Celery's own in the control node of this very consumer; no other app of the process sees them.
"""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery.utils.functional import maybe_list
from celery.worker.consumer.control import Control
from celery.worker.control import Panel
from kombu.serialization import prepare_accept_content

from resilience.delivery.broker import BROKER_ERRORS, Broker
from resilience.delivery.delayed import Delayed, DelayedMessage
from resilience.workers.registry import Registry
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.workers.later import Later

TIMER_PRIORITY = 6
"""What Celery's own answer says of every task that waits in its timer."""

logger = logging.getLogger("celeriac")

Command = Callable[..., Any]


def know_delayed(consumer: Any, owner: str, namespace: str, later: Later) -> None:
    """Have the remote control of `consumer` know what is due later. Doing it again changes nothing."""
    for step in consumer.blueprint.order:
        if isinstance(step, Control) and not isinstance(step.box.node.handlers, ChainMap):
            answers = _Commands(consumer, owner, namespace, later)
            step.box.node.handlers = ChainMap(answers.by_name(), step.box.node.handlers)


class _Commands:
    def __init__(self, consumer: Any, owner: str, namespace: str, later: Later) -> None:
        self._consumer = consumer
        self._owner = owner
        self._namespace = namespace
        self._later = later

    def by_name(self) -> dict[str, Command]:
        revoking = {name: self._revoking(name) for name in ("revoke", "terminate")}
        scheduled = {name: self._scheduled(name) for name in ("scheduled", "dump_schedule")}
        return {**revoking, **scheduled, "query_task": self._query_task}

    def _revoking(self, name: str) -> Command:
        def revoke(state: Any, **arguments: Any) -> Any:
            try:
                return Panel.data[name](state, **arguments)
            finally:
                self._later.revoke([str(task_id) for task_id in maybe_list(arguments.get("task_id")) or ()])

        return revoke

    def _scheduled(self, name: str) -> Command:
        def scheduled(state: Any, **arguments: Any) -> Any:
            return [*Panel.data[name](state, **arguments), *self._waiting()]

        return scheduled

    def _query_task(self, state: Any, **arguments: Any) -> Any:
        ids = {str(task_id) for task_id in maybe_list(arguments.get("ids")) or ()}
        found = {entry["request"]["id"]: ("scheduled", entry["request"]) for entry in self._waiting(ids)}
        return {**found, **Panel.data["query_task"](state, **arguments)}

    def _waiting(self, ids: set[str] | None = None) -> list[dict[str, Any]]:
        """Celery's words for what waits in Redis, as far as this worker speaks for it; all of it, or some ids."""
        try:
            broker = Broker(self._consumer.app)
            try:
                return list(self._told(broker, ids))
            finally:
                broker.close()
        except BROKER_ERRORS as error:
            logger.warning("celeriac: what is due later is not listed: %s", describe(error))
            return []

    def _told(self, broker: Broker, ids: set[str] | None) -> Iterator[dict[str, Any]]:
        delayed = Delayed(broker, self._namespace)
        found = delayed.first() if ids is None else delayed.of(ids)
        fleet = Registry(broker, self._namespace).live() if found else []
        for message in found:
            queue = broker.queue_in(message.source)
            speakers = [worker.owner for worker in fleet if queue in worker.queues] or [
                worker.owner for worker in fleet
            ]
            if self._owner == min(speakers, default=self._owner):  # one of them, else each would list it
                yield self._in_celerys_words(message, broker)

    def _in_celerys_words(self, delayed: DelayedMessage, broker: Broker) -> dict[str, Any]:
        due = datetime.fromtimestamp(delayed.due_s, timezone.utc)
        message = broker.message(delayed.raw)
        fields, args, kwargs = _task_of(message, self._consumer.app.conf.accept_content)
        address = message.delivery_info or {}
        request = {
            "id": fields.get("id"),
            "name": fields.get("shadow") or fields.get("task"),
            "args": args,
            "kwargs": kwargs,
            "type": fields.get("task"),
            "hostname": self._consumer.hostname,
            "time_start": None,
            "acknowledged": False,
            "delivery_info": {
                "exchange": address.get("exchange"),
                "routing_key": address.get("routing_key"),
                "priority": message.properties.get("priority"),
                "redelivered": address.get("redelivered", False),
            },
            "worker_pid": None,
        }
        return {"eta": due.isoformat(), "priority": TIMER_PRIORITY, "request": request}


def _task_of(message: Any, accept: Any) -> tuple[dict[str, Any], Any, Any]:
    """Headers, args and kwargs, whichever protocol it is; the arguments' representation where they cannot be read."""
    message.accept = prepare_accept_content(accept)
    fields = dict(message.headers or {})
    try:
        payload = message.payload
        if isinstance(payload, dict):
            return {**payload, **fields}, payload.get("args"), payload.get("kwargs")
        args, kwargs, _ = payload
    except Exception as error:  # noqa: BLE001  a decoder may raise anything; the list says what it can
        logger.debug("celeriac: the arguments of %s are not listed: %s", fields.get("id"), describe(error))
        return fields, fields.get("argsrepr"), fields.get("kwargsrepr")
    return fields, args, kwargs
