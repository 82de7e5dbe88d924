"""The gate: a consumer bootstep around Celery's message strategies, in the worker's main process.

It sees a message before a Request exists, on every pool, before ETA and rate limits: no pool slot is used, no prefetch
bookkeeping is disturbed. A task whose circuit is open is moved, as the raw message, to the first healthy level, else
to a parking queue. Health checks are answered here too, so a busy pool cannot fail them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from celery import bootsteps
from kombu.utils.encoding import ensure_bytes

from resilience.delivery.eta import is_due
from resilience.exits import Exits
from resilience.intake import guard
from resilience.recovery.deadline import left_s
from resilience.recovery.failover import HEADER, Plan, detour, journey_of, level_in
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
        for hook in self._core.on_consumer:
            hook(consumer)
        stock = consumer.update_strategies

        def update_strategies() -> None:
            stock()
            for name, strategy in list(consumer.strategies.items()):
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
            if core.hands_over(message, body):
                ack(logger, consumer.connection_errors)
                return None
            return strategy(message, body, ack, reject, callbacks, **kwargs)

        return punctual

    def _gated(self, name: str, strategy: Strategy) -> Strategy:
        plan = self._core.plan_for(name)
        if plan is None or not self._core.circuits_on:
            return strategy
        may_enter, circuit = self._core.may_enter, plan.circuit

        def gated(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
            headers = message.headers or {}
            try:
                at_home = HEADER not in headers
                passes = at_home and may_enter(circuit)
                if (
                    not passes
                    and is_due(headers, time.time())
                    and self._moved(plan, name, message, ack, refused=at_home)
                ):
                    return None
            except Exception as error:  # noqa: BLE001  a mangled message, or no broker: it runs here, where Celery judges it
                logger.warning("celeriac: the gate let %s pass, it could not move it: %s", name, describe(error))
            return strategy(message, body, ack, reject, callbacks, **kwargs)

        return gated

    def _answering(self, answer: Callable[[Any], None]) -> Strategy:
        def answered(message: Any, _body: Any, ack: Any, *_: Any, **__: Any) -> Any:
            try:
                answer(message)
            except Exception as error:  # noqa: BLE001  a health check must not stop the worker that it checks
                logger.warning("celeriac: a health message was not answered: %s", describe(error))
            ack(logger, self._consumer.connection_errors)

        return answered

    def _moved(self, plan: Plan, name: str, message: Any, ack: Any, refused: bool) -> bool:
        """Move the message if its circuit does not let it pass; False leaves it to run here.

        `refused`: that was asked already. A ramp draws lots, so it is asked once.
        """
        headers = message.headers
        address = message.delivery_info or {}
        queues = self._consumer.app.amqp.queues.consume_from
        here = queue_of(queues, address.get("exchange"), address.get("routing_key"))
        if not here:
            return False
        journey = journey_of(headers, here)
        circuit = plan.circuit_at(level_in(plan, journey))
        core = self._core
        if not refused and core.may_enter(circuit):
            return False
        left = left_s(headers, time.time())
        if left is not None and left <= 0:
            return False  # it is over wherever it goes: here it fails, and says why
        park = core.parking.queue_for if core.can_park else None
        retries = int(headers.get("retries") or 0)
        way = detour(plan, journey, here, f"circuit {circuit} open", retries, core.may_pass, park)
        if way is None or way.queue == here:
            return False
        self._publish(message, way.queue, {**headers, HEADER: way.journey.header()})
        ack(logger, self._consumer.connection_errors)
        core.tell_moved(str(headers.get("id")), name, way.journey)
        return True

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
