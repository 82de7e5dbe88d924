"""What a task's options ask of the middleware, read once per task."""

from __future__ import annotations

from typing import Any

from resilience.breaker.policy import check_name
from resilience.recovery.failover import Plan

OWN_PREFIXES = ("celery.", "resilience.")


class PlanError(ValueError):
    """A task's options are wrong; the message names the task and what would be right."""


def plan_of(task: Any) -> Plan | None:
    """The plan of a task, None when it has no circuit (`circuit=False`, Celery's own tasks, ours).

    Raises PlanError for a circuit name or a fallback that cannot be used.
    """
    name = str(task.name)
    circuit = getattr(task, "circuit", None)
    if circuit is False or name.startswith(OWN_PREFIXES):
        return None
    fallback = getattr(task, "fallback", None) or ()
    if isinstance(fallback, str):
        fallback = (fallback,)
    try:
        levels = tuple(check_name(queue) for queue in fallback)
    except (TypeError, ValueError):
        raise PlanError(f"task {name}: fallback={fallback!r} is not usable: a list of queue names is right") from None
    try:
        return Plan(check_name(name if circuit is None else circuit), levels)
    except ValueError as error:
        hint = '; give the task a name for it: circuit="..."' if circuit is None else ""
        raise PlanError(f"task {name}: {error}{hint}") from None
