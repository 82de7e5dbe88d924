"""What a task's options ask of the middleware, read once per task."""

from __future__ import annotations

import hashlib
import re
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
    if callable(fallback):
        fallback = ()  # a method of the user's own base class, which knew the word before we did
    if isinstance(fallback, str):
        fallback = (fallback,)
    try:
        levels = tuple(check_name(queue) for queue in fallback)
    except (TypeError, ValueError):
        raise PlanError(f"task {name}: fallback={fallback!r} is not usable: a list of queue names is right") from None
    if circuit is None:
        return Plan(_circuit_named_after(name), levels)
    try:
        return Plan(check_name(circuit), levels)
    except ValueError as error:
        raise PlanError(f"task {name}: {error}") from None


def _circuit_named_after(task_name: str) -> str:
    """The task's name, or one made of it where it cannot name a circuit: blanks, other alphabets, great length."""
    try:
        return check_name(task_name)
    except ValueError:
        plain = re.sub(r"[^\w.:/@+-]+", "_", task_name, flags=re.ASCII)[:100]
        return f"{plain}-{hashlib.sha256(task_name.encode()).hexdigest()[:8]}"
