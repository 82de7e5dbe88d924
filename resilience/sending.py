"""Celery's `app.send_task` for the everyday message to Redis, without what Celery and kombu work out anew each time.

A message is composed and told as Celery 5.7 does it: routing, stamps, headers, signals with the very arguments,
parents, results. What is put on Redis is what kombu puts there. Whatever is unusual about a call (an option that is
not listed here, an exchange of the user's own, task events, protocol 1, a broker that is no Redis) goes Celery's own
way, through a producer that is bounded in time all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app import base as celery_base
from celery.app.amqp import _callback_publish_retry as is_callback
from celery.utils.functional import maybe_list
from kombu import Queue
from kombu.common import Broadcast
from kombu.utils.uuid import uuid

from resilience.delivery.original import is_original
from resilience.delivery.publishing import Parcel, PublishingProducer
from resilience.delivery.transport import POLICY

if TYPE_CHECKING:
    from celery import Celery

_MESSAGE = (
    "countdown", "eta", "group_id", "group_index", "expires", "retries", "chord", "link", "link_error", "reply_to",
    "time_limit", "soft_time_limit", "root_id", "parent_id", "shadow", "chain", "ignore_result",
    "replaced_task_nesting",
)  # fmt: skip
_SENDING = ("task_id", "producer", "result_cls", "add_to_parent", "task_type", "route_name")
_ABSENT = ("connection", "router", "publisher", "exchange", "exchange_type", "declare", "immediate", "mandatory")
"""Options that a task may carry with the value None; with any other the call is unusual."""

_PUBLISHING = frozenset((
    "queue", "routing_key", "priority", "headers", "serializer", "compression", "retry", "retry_policy",
    "delivery_mode", "expiration",
))  # fmt: skip
_KNOWN = _PUBLISHING.union(_MESSAGE, _SENDING, _ABSENT, ("stamped_headers",)) - {"expiration"}
_NOT_ROUTED = frozenset((*_MESSAGE, *_SENDING, "connection", "router", "publisher"))
_PROPERTIES = frozenset(("correlation_id", "reply_to", "priority", "expiration", "immediate", "mandatory"))
_NO_PROPERTIES = _PUBLISHING.union(("exchange", "exchange_type", "declare")) - _PROPERTIES


@dataclass(slots=True)
class Composed:
    """A task message of which `before_task_publish` was told."""

    name: str
    task_id: str
    ignores_result: Any
    body: Any
    headers: dict[str, Any]
    properties: dict[str, Any]
    queue: Any
    declare: list[Any]
    options: dict[str, Any]
    """Serializer, compression, delivery_mode, retry and retry_policy, as kombu's Producer takes them."""

    @property
    def is_plain(self) -> bool:
        """Whether no receiver of the signal asked for more than a list that it is put into."""
        if self.declare != [self.queue] or not self.properties.keys() <= _PROPERTIES:
            return False
        if not self.options["retry_policy"].keys() <= POLICY:
            return False
        return not (self.properties.get("immediate") or self.properties.get("mandatory"))

    def parcel(self) -> Parcel:
        """What is put on Redis. Raises EncodeError."""
        return Parcel.packed(self.body, self.headers, self.properties, self.queue.name, self.options)

    def tell_sent(self) -> None:
        signals.after_task_publish.send(
            sender=self.name, body=self.body, headers=self.headers, exchange="", routing_key=self.queue.name
        )


class LeanSender:
    """Stands in an app's `send_task`."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    @property
    def _amqp(self) -> Any:
        return self._app.__dict__.get("amqp") or self._app.amqp  # Celery's own look-up of it is slow

    def __call__(self, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        full = self.with_task_options(name, options)
        if more or not self.takes(full):
            return self._as_celery(name, args, kwargs, *more, **options)
        routed = self.routed(name, args, kwargs, full)
        if not is_plain(routed):
            return self._as_celery(name, args, kwargs, **{**full, "router": _Routed(routed)})
        composed = self.compose(name, args, kwargs, full, routed)
        self.send(composed, full.get("producer"))
        return self.result(composed, full)

    def send(self, composed: Composed, producer: Any = None) -> None:
        """Publish one, through `producer` or one of the pool's. Raises OperationalError, EncodeError."""
        if producer is None:
            with self._app._acquire_producer(self._amqp.publishing.wait_s) as acquired:  # noqa: SLF001  as Celery
                self._publish(composed, acquired)
        else:
            self._publish(composed, producer)
        composed.tell_sent()

    def _publish(self, composed: Composed, producer: Any) -> None:
        with producer.connection._reraise_as_library_errors():  # noqa: SLF001  as Celery's own send_task
            if not composed.ignores_result:
                self._app.backend.on_task_call(producer, composed.task_id)
            options = composed.options
            if composed.is_plain and _takes_parcels(producer):
                producer.put(composed.parcel(), composed.declare, options["retry_policy"] if options["retry"] else None)
                return
            producer.publish(
                composed.body, exchange="", routing_key=composed.queue.name, declare=composed.declare,
                headers=composed.headers, **options, **composed.properties,
            )  # fmt: skip

    def with_task_options(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """A task sent by its name has its own options all the same, if it is known here."""
        task = self._app._tasks.get(name) if options.get("task_type") is None else None  # noqa: SLF001  as Celery
        if task is None:
            return options
        own = {option: value for option, value in task._get_exec_options().items() if value is not None}  # noqa: SLF001
        return {**own, **options, "task_type": task}

    def _as_celery(self, *args: Any, **options: Any) -> Any:
        return type(self._app).send_task(self._app, *args, **options)

    def takes(self, options: dict[str, Any]) -> bool:
        """Whether a call with these options, in an app and a process in this state, is an everyday one."""
        return are_everyday(options) and self.is_everyday("result_cls" in options)

    def is_everyday(self, by_task: bool) -> bool:
        """Whether the app and the process are in a state in which calls are. `by_task`: eager mode was ruled out."""
        conf = self._app.conf
        if conf.task_send_sent_event or signals.task_sent.receivers or is_callback.get():
            return False
        if not by_task and conf.task_always_eager:  # Celery warns; a task's own apply_async has asked already
            return False
        # a user's own send_task, or one that a tracing tool wrapped, is to be asked
        return self._amqp.sends_lean and is_original(type(self._app).send_task, celery_base)

    def routed(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options with which it is published, its destination filled in."""
        given = {option: value for option, value in options.items() if option not in _NOT_ROUTED}
        routed: dict[str, Any] = self._amqp.router.route(
            given, options.get("route_name") or name, args, kwargs, options.get("task_type")
        )
        return routed

    def compose(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], routed: dict[str, Any]) -> Composed:
        """Make the message and tell `before_task_publish` of it."""
        app, amqp, get = self._app, self._amqp, options.get
        task_id = get("task_id") or uuid()
        ignores_result = get("ignore_result")
        if get("expires") is not None:
            routed["expiration"] = options["expires"]
        root_id, parent_id = self._ancestors(get("root_id"), get("parent_id"), routed)
        headers, properties, body, _ = amqp.create_task_message(
            task_id, name, args, kwargs, get("countdown"), get("eta"), get("group_id"), get("group_index"),
            get("expires"), get("retries", 0), get("chord"), maybe_list(get("link")), maybe_list(get("link_error")),
            get("reply_to") or app.thread_oid, get("time_limit"), get("soft_time_limit"), False, root_id, parent_id,
            get("shadow"), get("chain"), ignore_result=ignores_result,
            replaced_task_nesting=get("replaced_task_nesting", 0), **routed,
        )  # fmt: skip
        for stamp in routed.pop("stamped_headers", None) or ():
            routed.pop(stamp)
        headers.update(routed.get("headers") or {})
        properties.update((key, value) for key, value in routed.items() if key not in _NO_PROPERTIES)
        queue, rule = routed["queue"], amqp.publishing
        policy = {**rule.policy, **(routed.get("retry_policy") or {})}
        declare = [queue]
        signals.before_task_publish.send(
            sender=name, body=body, exchange="", routing_key=queue.name, declare=declare, headers=headers,
            properties=properties, retry_policy=policy,
        )  # fmt: skip
        sending = {
            "serializer": routed.get("serializer") or rule.serializer,
            "compression": routed.get("compression") or rule.compression,
            "delivery_mode": routed.get("delivery_mode") or _mode_of(queue) or rule.delivery_mode,
            "retry": rule.retry if routed.get("retry") is None else routed["retry"],
            "retry_policy": policy,
        }
        return Composed(name, task_id, ignores_result, body, headers, properties, queue, declare, sending)

    def result(self, composed: Composed, options: dict[str, Any]) -> Any:
        """The result of a task that was sent."""
        result = (options.get("result_cls") or self._app.AsyncResult)(composed.task_id)
        result.ignored = composed.ignores_result
        parent = self._app.current_worker_task if options.get("add_to_parent", True) else None
        if parent:
            parent.add_trail(result)
        return result

    def _ancestors(self, root_id: Any, parent_id: Any, routed: dict[str, Any]) -> tuple[Any, Any]:
        if root_id and parent_id:
            return root_id, parent_id
        parent = self._app.current_worker_task
        if not parent:
            return root_id, parent_id
        request = parent.request
        if self._app.conf.task_inherit_parent_priority:
            routed.setdefault("priority", request.delivery_info.get("priority"))
        return root_id or request.root_id or request.id, parent_id or request.id


def are_everyday(options: dict[str, Any]) -> bool:
    """Whether the options of a call are such that its message is composed here."""
    if not options.keys() <= _KNOWN and not options.keys() - _KNOWN <= set(options.get("stamped_headers") or ()):
        return False
    if has_any(_ABSENT, options):
        return False
    expires = options.get("expires")
    if expires is not None and not (type(expires) in (int, float) and expires >= 0):
        return False
    policy, producer = options.get("retry_policy"), options.get("producer")
    return not (policy and not policy.keys() <= POLICY) and (producer is None or _takes_parcels(producer))


def has_any(names: tuple[str, ...], options: dict[str, Any]) -> bool:
    """Whether one of these options is given, and not as None."""
    for name in names:  # noqa: SIM110  half the cost of any() with a generator, for every task sent
        if options.get(name) is not None:
            return True
    return False


class _Routed:
    """A router for Celery's own `send_task` that repeats what was decided: asking twice could use up a probe twice."""

    def __init__(self, routed: dict[str, Any]) -> None:
        self._routed = routed

    def route(self, *_: Any) -> dict[str, Any]:
        return self._routed


def is_plain(routed: dict[str, Any]) -> bool:
    """Whether the destination is a queue reached by its name, and nothing unknown came in on the way."""
    queue = routed.get("queue")
    if not isinstance(queue, Queue) or isinstance(queue, Broadcast):
        return False
    if getattr(queue.exchange, "type", "direct") != "direct":
        return False
    if routed.keys() <= _PUBLISHING:
        return True
    known = _PUBLISHING.union(_ABSENT, ("stamped_headers",), routed.get("stamped_headers") or ())
    return routed.keys() <= known and not has_any(_ABSENT, routed)


def _mode_of(queue: Queue) -> Any:
    return getattr(queue.exchange, "delivery_mode", None)


def _takes_parcels(producer: Any) -> bool:
    return isinstance(producer, PublishingProducer) and producer.takes_parcels
