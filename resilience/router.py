"""Publish-time routing: a task whose circuit is open goes straight to its first level that is not. No round trip.

Celery's router is asked first for the home queue. A message that was moved before carries its home in a header; then
an explicit queue (every retry names the queue it came from) is where it was, not where it belongs, and is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP
from celery.app.routes import Router
from kombu import Exchange, Queue
from kombu.pools import ProducerPool

from resilience.delivery.broker import is_redis
from resilience.delivery.publishing import Publishing, PublishingProducer
from resilience.delivery.representation import represented
from resilience.delivery.transport import POLICY
from resilience.delivery.transport import Connection as RepairedConnection
from resilience.recovery.deadline import DEADLINE_HEADER, deadline_at
from resilience.recovery.failover import (
    HEADER,
    Level,
    by_queue,
    every,
    journey_of,
    level_in,
    level_to_send_to,
    moved_to,
)

if TYPE_CHECKING:
    from resilience.core import Core

_DESTINATION = ("queue", "exchange", "routing_key")


def plain_queue(name: str) -> Queue:
    """A queue reached through the anonymous exchange: nothing is declared, no binding is left behind."""
    return Queue(name, exchange=Exchange("", type="direct"), routing_key=name, no_declare=True)


class ResilientRouter(Router):
    """Celery's router plus the circuits' word."""

    core: Core
    _default: tuple[Any, Any, Any] | None = None

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """The publish options with their destination filled in."""
        headers = options.get("headers") or {}
        plan = self.core.plan_of_message(name, headers, task_type)
        if plan is None or not plan.levels or not self.core.circuits_on:
            return self._stock(options, name, args, kwargs, task_type)
        if HEADER in headers:
            home = journey_of(headers, "").home
            if home:
                options = {key: value for key, value in options.items() if key not in _DESTINATION}
                options["queue"] = home
        routed = self._stock(options, name, args, kwargs, task_type)
        home = destination_of(routed)
        if not home:
            return routed  # an exchange of the user's own with a key: which queue it means is not ours to guess
        journey = journey_of(headers, home)
        level = level_to_send_to(plan, journey, self.core.may_pass, self._usable)
        if level == 0 and journey.level == 0:
            return routed
        if level != journey.level:
            reason = f"circuit {plan.circuit} open" if level else "circuit lets pass"
            origin = plan.queue_at(level_in(plan, journey), home)
            journey = moved_to(plan, journey, task_name(name, task_type), level, origin, reason, 0).journey
        headers = {**headers, HEADER: journey.header()}
        queue = plan.levels[level - 1].queue if level else ""
        if not queue:
            return {**routed, "headers": headers}
        rest = {key: value for key, value in routed.items() if key not in _DESTINATION}
        return {**rest, "queue": self._queue_of_level(queue), "headers": headers}

    def _queue_of_level(self, name: str) -> Queue:
        """One object for all messages, as Celery's own queues are: to make one takes most of the time of routing."""
        queue = self._level_queues.get(name)
        if queue is None:
            queue = self._level_queues[name] = plain_queue(name)
        return queue

    @cached_property
    def _level_queues(self) -> dict[str, Queue]:
        return {}

    @cached_property
    def _usable(self) -> Callable[[Level], bool]:
        return every if self.app.conf.task_protocol == 2 else by_queue

    def _stock(self, options: dict[str, Any], *message: Any) -> dict[str, Any]:
        if self.routes or options.get("queue"):
            routed: dict[str, Any] = super().route(options, *message)
            return routed
        # as Celery's: the default queue, and what was left out by giving None is left out
        return {"queue": self._default_queue(), **{name: value for name, value in options.items() if value is not None}}

    def _default_queue(self) -> Any:
        """Celery looks its name up for each message; here, when it was set anew."""
        conf = self.app.conf
        said = conf.changes.get("task_default_queue")
        known = self._default
        if known is None or known[0] is not conf or known[1] != said:
            queue = self.expand_destination(conf.task_default_queue)["queue"]
            known = self._default = (conf, said, queue)
        return known[2]


def task_name(name: str, task_type: Any) -> str:
    """The task that is sent: `name` may be one that was given for routing only."""
    return str(getattr(task_type, "name", None) or name)


def destination_of(routed: dict[str, Any]) -> str:
    """The queue name in routed publish options; "" when only an exchange is named."""
    queue = routed.get("queue")
    if queue is not None:
        return str(getattr(queue, "name", queue))
    return "" if routed.get("exchange") else str(routed.get("routing_key") or "")


def queue_of(queues: Mapping[str, Any], address: Mapping[str, Any] | None) -> str:
    """The name of the queue among `queues` that a message came from; "" when it cannot be told.

    `address`: the message's delivery_info.
    """
    known = address or {}
    exchange, routing_key = known.get("exchange"), known.get("routing_key")
    if not exchange:
        return str(routing_key or "")
    bound = [queue for queue in queues.values() if queue.exchange is not None and queue.exchange.name == exchange]
    exact = [queue for queue in bound if queue.routing_key == routing_key]
    candidates = exact or bound
    return str(candidates[0].name) if len(candidates) == 1 else ""


def resilient_amqp(base: type[AMQP], core: Core) -> type[AMQP]:
    """`base` with our router, connections and producers; what a user's own `base` replaced stays the user's."""

    class AppConnection(RepairedConnection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.celeriac_namespace = core.settings.namespace
            self.lean = core.app.amqp.publishes_lean
            self.publish_bound_s = core.settings.publish_timeout_s if self.lean else None

    class ResilientAMQP(base):
        # a Connection class of the user's own stays
        Connection = AppConnection if base.Connection is AMQP.Connection else base.Connection
        _producer_pool: Any

        def as_task_v2(
            self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
        ) -> Any:
            levels = self._repr_levels
            if options.get("argsrepr") is None and isinstance(args or (), (list, tuple)):
                options["argsrepr"] = represented(args or (), self.argsrepr_maxsize, levels)
            if options.get("kwargsrepr") is None:
                options["kwargsrepr"] = represented(kwargs or {}, self.kwargsrepr_maxsize, levels)
            headers = options.get("headers")
            if headers and HEADER in headers:
                plan = core.plan_of_message(name, headers)
                name = core.name_to_send(name, headers)
            else:
                plan = core.plan_for(name)
            # Here and not in the router, which does not see the eta; a retry's own header wins over this one.
            message = super().as_task_v2(task_id, name, args, kwargs, *more, **options)
            if plan is not None and plan.deadline_s is not None:
                message.headers[DEADLINE_HEADER] = deadline_at(message.headers["eta"], time.time(), plan.deadline_s)
            return message

        @cached_property
        def _repr_levels(self) -> int:
            return int(self.app.conf.task_repr_maxlevels)

        # a settings update rebuilds the router, so the factory is replaced
        def Router(self, queues: Any = None, create_missing: bool | None = None) -> Router:  # noqa: N802  Celery's name
            stock = super().Router(queues, create_missing)
            router = ResilientRouter(stock.routes, stock.queues, stock.create_missing, stock.app)
            router.core = core
            return router

        @property
        def Producer(self) -> Any:  # noqa: N802  Celery's name
            return PublishingProducer if self.publishes_lean else super().Producer

        @property
        def producer_pool(self) -> Any:
            if not self.publishes_lean:
                return super().producer_pool
            if self._producer_pool is None:
                pool = self.app.pool
                self._producer_pool = ProducerPool(pool, limit=pool.limit, Producer=self.Producer)
            return self._producer_pool

        @cached_property
        def publishing(self) -> Publishing:
            """What is said for every message; read once, as Celery reads it."""
            return Publishing.of(self.app.conf)

        @cached_property
        def sends_lean(self) -> bool:
            """Whether `resilience.sending` may compose messages: to Redis, and Celery's class is nobody else's."""
            conf = self.app.conf
            return (
                base is AMQP
                and self.publishes_lean
                and is_redis(conf.broker_write_url)
                and conf.task_protocol == 2
                and self.publishing.policy.keys() <= POLICY
            )

        @property
        def publishes_lean(self) -> bool:
            stock = base.Connection is AMQP.Connection and base.Producer is AMQP.Producer
            return stock and core.settings.enabled and core.settings.publishing_enabled

    return ResilientAMQP
