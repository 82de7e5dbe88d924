"""The gate: a consumer bootstep around Celery's message strategies, in the worker's main process.

It sees a message before a Request exists, on every pool, before ETA and rate limits: no pool slot is used, no prefetch
bookkeeping is disturbed. A task whose circuit is open is moved, as the raw message, to the first healthy level, else
to a parking queue; where another task stands in for it on the same queue, that one is run instead, here and now.
Health checks are answered here too, so a busy pool cannot fail them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from celery import bootsteps
from kombu.utils.encoding import ensure_bytes

from resilience.delivery.eta import is_due
from resilience.delivery.onward import sent_on
from resilience.exits import Exits
from resilience.intake import guard
from resilience.recovery.deadline import left_s
from resilience.recovery.failover import HEADER, Detour, Level, OnOpen, by_queue, detour, journey_of, level_in
from resilience.router import queue_of
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core

logger = logging.getLogger("celeriac")

Strategy = Callable[..., Any]
_NOT_COPIED = (
    "delivery_tag",
    "delivery_info",
    "body_encoding",
    "content_type",
    "content_encoding",
    "expiration",
    "headers",
)


def gate_for(core: Core, exits: Exits) -> type[Gate]:
    """The bootstep class to install: Celery makes the instance, and knows nothing of `core`."""
    return type("CeleriacGate", (Gate,), {"core": core, "exits": exits, "__module__": __name__})


class Gate(bootsteps.StartStopStep):
    """Installed by the middleware on every worker of the app."""

    name = "celeriac-gate"
    requires = ("celery.worker.consumer.tasks:Tasks",)  # the connection stands; the loop has not begun to take messages
    core: ClassVar[Core]
    exits: ClassVar[Exits]

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._consumer = consumer
        self._core = self.core
        self._stock: dict[str, Strategy] = {}
        for hook in self._core.on_consumer:
            hook(consumer)
        stock = consumer.update_strategies

        def update_strategies() -> None:
            stock()
            self._stock = dict(consumer.strategies)
            for name, strategy in self._stock.items():
                consumer.strategies[name] = self._around(name, strategy)

        consumer.update_strategies = update_strategies
        guard(consumer, self.exits)

    def start(self, consumer: Any) -> None:
        """The connection is new, or new again: what the last one held is settled first."""
        self.exits.connected(consumer)
        for hook in self._core.on_connected:
            hook(consumer)

    def stop(self, consumer: Any) -> None:
        """Before the consumer is cancelled: because the worker ends, or to connect anew."""
        if consumer.blueprint.state != bootsteps.RUN:
            for hook in self._core.on_stopping:
                hook()

    def _around(self, name: str, strategy: Strategy) -> Strategy:
        answer = self._core.answers.get(name)
        if answer is not None:
            return self._answering(answer)
        return self._punctual(self._gated(name, strategy))

    def _punctual(self, strategy: Strategy) -> Strategy:
        """What is due later waits in Redis; it comes again when it is due."""
        core, consumer = self._core, self._consumer

        def punctual(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
            fields = message.headers if body is None else body
            if type(fields) is dict and fields.get("eta") and core.hands_over(message, body):
                ack(logger, consumer.connection_errors)
                return None
            return strategy(message, body, ack, reject, callbacks, **kwargs)

        return punctual

    def _gated(self, name: str, strategy: Strategy) -> Strategy:
        if not self._core.circuits_on:
            return strategy
        plan, may_enter, breakers = self._core.plan_for(name), self._core.may_enter, self._core.breakers
        circuit = None if plan is None else plan.circuit

        def gated(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
            headers = message.headers or {}
            begin = strategy
            try:
                at_home = HEADER not in headers
                passes = at_home and (circuit is None or breakers.is_free(circuit) or may_enter(circuit))
                if not passes and is_due(headers, time.time()):
                    begin = self._elsewhere(name, message, ack, refused=at_home) or strategy
            except Exception as error:  # noqa: BLE001  a mangled message, or no broker: it runs here, where Celery judges it
                logger.warning("celeriac: the gate let %s pass, it could not move it: %s", name, describe(error))
            return begin(message, body, ack, reject, callbacks, **kwargs)

        return gated

    def _answering(self, answer: Callable[[Any], None]) -> Strategy:
        def answered(message: Any, _body: Any, ack: Any, *_: Any, **__: Any) -> Any:
            try:
                answer(message)
            except Exception as error:  # noqa: BLE001  a health check must not stop the worker that it checks
                logger.warning("celeriac: a health message was not answered: %s", describe(error))
            ack(logger, self._consumer.connection_errors)

        return answered

    def _elsewhere(self, name: str, message: Any, ack: Any, refused: bool) -> Strategy | None:
        """What to do with a message that its circuit does not let pass; None: nothing, it is to run here.

        `refused`: that was asked already. A ramp draws lots, so it is asked once.
        """
        headers, core = message.headers, self._core
        plan = core.plan_of_message(name, headers)
        here = queue_of(self._consumer.app.amqp.queues.consume_from, message.delivery_info)
        if plan is None or plan.on_open is OnOpen.FAIL or not here:
            return None  # one that fails does so where its code would have run: its result is written there
        journey = journey_of(headers, here)
        circuit = plan.circuit_at(level_in(plan, journey))
        if not refused and core.may_enter(circuit):
            return None
        left = left_s(headers, time.time())
        if left is not None and left <= 0:
            return None  # it is over wherever it goes: here it fails, and says why
        park = core.parking.queue_for if core.can_park else None
        retries = int(headers.get("retries") or 0)
        usable = self._is_known if "task" in headers else by_queue
        why = f"circuit {circuit} open"
        way = detour(plan, journey, name, here, why, retries, core.may_pass, park, usable)
        if way is None or (way.queue == here and way.task == name):
            return None
        begin = self._way_to(way, here, message, ack)
        core.tell_moved(str(headers.get("id")), name, way.journey)
        return begin

    def _way_to(self, way: Detour, here: str, message: Any, ack: Any) -> Strategy:
        headers = {**message.headers, HEADER: way.journey.header()}
        if "task" in headers:
            headers["task"] = way.task
        if way.queue == here and way.task in self._stock:
            message.headers = headers  # the broker keeps it as it came, so that a killed worker changed nothing
            return self._stock[way.task]
        if not sent_on(message, way.queue, headers):
            self._publish(message, way.queue, headers)
        ack(logger, self._consumer.connection_errors)
        return _gone

    def _is_known(self, level: Level) -> bool:
        return bool(level.queue) or level.task in self._stock or not level.task

    def _publish(self, message: Any, queue: str, headers: dict[str, Any]) -> None:
        """The raw message under the same id on another queue; only the route and our header differ."""
        properties = {key: value for key, value in message.properties.items() if key not in _NOT_COPIED}
        expiration = message.properties.get("expiration")  # a string of milliseconds; publish wants seconds
        if expiration is not None:
            properties["expiration"] = int(expiration) / 1000
        compression = headers.pop("compression", None)
        with self._consumer.app.producer_pool.acquire(block=True, timeout=5) as producer:
            producer.publish(
                ensure_bytes(message.body), exchange="", routing_key=queue, headers=headers, compression=compression,
                content_type=message.content_type, content_encoding=message.content_encoding, retry=False, **properties,
            )  # fmt: skip


def _gone(*_: Any, **__: Any) -> None:
    """It is on another queue."""
