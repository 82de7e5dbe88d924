"""What is done about a failure beside the fate of its task: counted, resources freed, a worker asked to act.

Where circuits are off there is no Redis to share any of it through, and nothing is done. Trouble of its own changes
nothing of the fate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from resilience.errors.classify import Classified
from resilience.identity import owner
from resilience.recovery.decide import Decision, FreeResources, WorkerAction, WorkerView
from resilience.recovery.failover import journey_of, level_in
from resilience.recovery.ledger import Cause
from resilience.recovery.patience import RECOVERY_HEADER, Tried, tried_by
from resilience.router import queue_of

if TYPE_CHECKING:
    from resilience.core import Core


logger = logging.getLogger("celeriac")

T = TypeVar("T")


def _beside(method: Callable[..., T]) -> Callable[..., T | None]:
    """`method`, where the work that it is done beside goes on whatever it raises."""

    @wraps(method)
    def never_raises(*args: Any) -> T | None:
        try:
            return method(*args)
        except Exception:
            logger.exception("celeriac: %s failed beside a task", method.__name__)
            return None

    return never_raises


class Aid:
    """One per app and process."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @_beside
    def view(self, task: Any, request: Any, circuit: str, error: Classified) -> WorkerView | None:
        """How this worker fares with this circuit; counts the failure."""
        if not self._core.circuits_on:
            return None
        queues = task.app.amqp.queues.consume_from
        queue = queue_of(queues, request.delivery_info)
        view = self._core.recoveries.tally.failed(circuit, error.category.value, queue if queue in queues else "")
        return replace(view, kept=self._core.settings.worker_restarts)

    @_beside
    def act(self, decision: Decision, cause: Cause) -> None:
        """What is done before the fate, and asked of the worker: within the time budget."""
        if not self._core.circuits_on:
            return
        if isinstance(decision.first, FreeResources):
            self._core.recoveries.free_resources(cause, decision.budget_s)
        if decision.worker is not None and self._core.can_park:  # there is a pulse that does it
            self._core.recoveries.ask(decision.worker, owner(), cause, decision.budget_s)
            if decision.worker is WorkerAction.RECONNECT:
                self._core.recoveries.tally.reconnects(cause.circuit, cause.category)

    @_beside
    def count(self, headers: Any, tried: Tried) -> None:
        """What was tried before has failed; what is tried now begins."""
        if not self._core.circuits_on:
            return
        tally, before = self._core.recoveries.tally, tried_by(headers)
        if before is not None:
            tally.ended(before.strategy, before.category, succeeded=False)
        tally.initiated(tried.strategy, tried.category)

    @_beside
    def ended_well(self, task: str, headers: Any) -> None:
        """An attempt succeeded, and with it what was tried."""
        core = self._core
        if not core.circuits_on:
            return
        tally = core.recoveries.tally
        before = tried_by(headers) if headers and RECOVERY_HEADER in headers else None
        if before is not None:
            tally.ended(before.strategy, before.category, succeeded=True)
        plan = core.plan_of_message(task, headers) if tally.in_trouble else None
        if plan is not None:
            tally.succeeded(plan.circuit_at(level_in(plan, journey_of(headers, ""))))
