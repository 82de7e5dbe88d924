"""Health checks: beat starts a round, every live worker gets a check on its own queue, the main process answers.

Both tasks are answered at the gate (see `resilience.gate`), so a busy pool cannot fail them; their bodies run only
where the gate is switched off.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from resilience.delivery.broker import Broker
from resilience.router import plain_queue
from resilience.workers.registry import Registry
from signals.events import WorkerUnhealthy

if TYPE_CHECKING:
    from resilience.middleware import Resilience

logger = logging.getLogger("celeriac")

ROUND = "resilience.health_round"
CHECK = "resilience.health_check"


def own_queue(namespace: str, hostname: str) -> str:
    """The queue that only the worker with this node name consumes."""
    return f"{namespace}.worker.{hostname}"


class HealthChecks:
    """Installed on an app: two tasks, their beat entry, and the answers for the gate."""

    def __init__(self, resilience: Resilience) -> None:
        self._resilience = resilience
        self._broker: Broker | None = None

    def install(self) -> None:
        app = self._resilience.app

        @app.task(name=ROUND, ignore_result=True, shared=False)
        def health_round() -> None:
            self.start_round()

        @app.task(name=CHECK, ignore_result=True, shared=False)
        def health_check(owner: str) -> None:
            self.answer_check(owner)

        self._check_task = health_check
        self._resilience.answers[ROUND] = lambda _message: self.start_round()
        self._resilience.answers[CHECK] = lambda message: self.answer_check(_first_argument(message))

    def beat_schedule(self) -> dict[str, dict[str, Any]]:
        """The beat entry; a round that waited longer than an interval is of no use and expires."""
        interval_s = self._resilience.settings.health_interval_s
        return {
            "celeriac-health-round": {
                "task": ROUND,
                "schedule": interval_s,
                "options": {"expires": interval_s},
            },
        }

    def start_round(self) -> None:
        """Send one check to each live worker; say which ones let several pass."""
        registry = self._registry()
        settings = self._resilience.settings
        for worker in registry.live():
            missed = registry.check_sent(worker, settings.health_timeout_s)
            if missed:
                self._resilience.bus.publish(WorkerUnhealthy(worker.owner, missed))
            self._check_task.apply_async(
                (worker.owner,),
                queue=plain_queue(own_queue(settings.namespace, worker.hostname)),
                expires=max(settings.health_timeout_s, 1.0),
                retry=False,
            )

    def answer_check(self, owner: str) -> None:
        self._registry().check_answered(owner)

    def _registry(self) -> Registry:
        if self._broker is None:
            self._broker = Broker(self._resilience.app)
        return Registry(self._broker, self._resilience.settings.namespace)


def _first_argument(message: Any) -> str:
    body = message.payload if not isinstance(message.body, (str, bytes)) else json.loads(message.body)
    return str(body[0][0])
