"""Health checks: beat asks for a round, one pulse thread starts it, every worker gets a check on its own queue.

The main process answers, never a pool slot: at the gate when its consumer takes the check, else in the pulse thread,
because a worker whose prefetch window is full takes nothing. The thread answers only for a main loop that turns, or
for a solo pool inside a task. The tasks' bodies run only where neither is installed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from resilience.delivery.broker import Broker, is_redis
from resilience.errors.severity import severity_at, time_budget_s
from resilience.errors.taxonomy import ErrorCategory
from resilience.recovery.decide import WorkerView, about_worker
from resilience.recovery.ledger import Cause
from resilience.router import plain_queue
from resilience.workers.registry import Registry, WorkerInfo
from signals.events import WorkerUnhealthy

if TYPE_CHECKING:
    from resilience.core import Core

logger = logging.getLogger("celeriac")

ROUND = "resilience.health_round"
CHECK = "resilience.health_check"


def own_queue(namespace: str, hostname: str) -> str:
    """The queue that only the worker with this node name consumes."""
    return f"{namespace}.worker.{hostname}"


class HealthChecks:
    """Installed on an app: two tasks, their beat entry, and the answers for the gate."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._broker: Broker | None = None

    def install(self) -> None:
        app = self._core.app

        @app.task(name=ROUND, ignore_result=True, shared=False)
        def health_round() -> None:
            self.start_round()

        @app.task(name=CHECK, ignore_result=True, shared=False)
        def health_check(owner: str) -> None:
            self.answer_check(owner)

        self._check_task = health_check
        self._core.answers[ROUND] = lambda _message: self.start_round()
        self._core.answers[CHECK] = lambda message: self.answer_check(_first_argument(message))

    def beat_schedule(self) -> dict[str, dict[str, Any]]:
        """The beat entry; a round that waited longer than an interval is of no use and expires."""
        interval_s = self._core.settings.health_interval_s
        options: dict[str, Any] = {"expires": interval_s}
        if is_redis(self._core.app.conf.broker_write_url):
            options["queue"] = self._round_queue()  # served by the pulse threads, so full windows do not delay it
        return {"celeriac-health-round": {"task": ROUND, "schedule": interval_s, "options": options}}

    def start_round(self, broker: Broker | None = None) -> None:
        """Send one check to each live worker; say which ones let several pass."""
        broker = broker or self._own_broker()
        settings = self._core.settings
        registry = Registry(broker, settings.namespace)
        fleet = registry.live()
        for worker in fleet:
            missed = registry.check_sent(worker, settings.health_timeout_s)
            if missed:
                self._core.bus.publish(WorkerUnhealthy(worker.owner, missed))
                self._have_it_act(worker, missed, fleet)
            self._check_task.apply_async(
                (worker.owner,),
                queue=plain_queue(own_queue(settings.namespace, worker.hostname)),
                expires=max(settings.health_timeout_s, 1.0),
                connection=broker.connection,
                retry=False,
            )

    def _have_it_act(self, worker: WorkerInfo, missed: int, fleet: list[WorkerInfo]) -> None:
        """A worker that misses checks degrades, then leaves the rotation, if others do its work."""
        core = self._core
        if not (core.circuits_on and core.can_park):
            return
        beside = [each for each in fleet if each.owner != worker.owner and _shares(each, worker)]
        view = WorkerView(missed, len(beside), sum(each.health == "unhealthy" for each in beside))
        action = about_worker(ErrorCategory.HEALTH_CHECK, view)
        row = core.matrix[ErrorCategory.HEALTH_CHECK]
        if action is not None:
            why = f"it missed {missed} health checks"
            cause = Cause(ErrorCategory.HEALTH_CHECK.value, severity_at(row, missed).value, why=why)
            core.recoveries.ask(action, worker.owner, cause, time_budget_s(row))

    def answer_check(self, owner: str, broker: Broker | None = None) -> None:
        """Note in the registry that this worker's main process answered."""
        Registry(broker or self._own_broker(), self._core.settings.namespace).check_answered(owner)

    def tend(self, broker: Broker, hostname: str, loop_turns: Callable[[], bool]) -> None:
        """Every beat, in the pulse thread: start a round that is due, answer the checks that the loop does not take."""
        due = cast("bytes | None", broker.client.rpop(broker.key(self._round_queue())))
        if due is not None and not _expired(json.loads(due)):
            self.start_round(broker)
        queue = broker.key(own_queue(self._core.settings.namespace, hostname))
        for raw in cast("list[bytes]", broker.client.lrange(queue, 0, 99)):
            if CHECK.encode() not in raw or not loop_turns():
                continue  # somebody else's message, perhaps a mangled one: the consumer's business
            message = json.loads(raw)
            if message["headers"].get("task") != CHECK:
                continue
            if broker.client.lrem(queue, 1, cast("str", raw)) and not _expired(message):
                self.answer_check(_argument(broker.body(message)), broker)

    def _round_queue(self) -> str:
        return f"{self._core.settings.namespace}.health"

    def _own_broker(self) -> Broker:
        if self._broker is None:
            self._broker = Broker(self._core.app)
        return self._broker


def _shares(one: WorkerInfo, other: WorkerInfo) -> bool:
    return bool({*one.queues} & {*other.queues})


def _expired(message: dict[str, Any]) -> bool:
    expires = message["headers"].get("expires")
    return bool(expires) and datetime.fromisoformat(expires) < datetime.now(timezone.utc)


def _argument(body: bytes | str) -> str:
    return str(json.loads(body)[0][0])


def _first_argument(message: Any) -> str:
    return _argument(message.body) if isinstance(message.body, (str, bytes)) else str(message.payload[0][0])
