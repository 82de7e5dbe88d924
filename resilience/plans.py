"""What a task's options ask of the middleware, read once per task."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any

from resilience.breaker.policy import check_name
from resilience.recovery.failover import Plan
from signals.redact import one_line, redact

OWN_PREFIXES = ("celery.", "resilience.")
OPTIONS = ("circuit", "fallback", "deadline_s", "user_facing")
"""The task options that the middleware reads."""


class PlanError(ValueError):
    """A task's options are wrong; the message names the task and what would be right."""


def plan_of(task: Any) -> Plan | None:
    """The plan of a task, None when it has no circuit (`circuit=False`, Celery's own tasks, ours).

    Raises PlanError for a circuit name or a fallback that cannot be used.
    """
    name = str(task.name)
    circuit = getattr(task, "circuit", None)
    if name.startswith(OWN_PREFIXES):
        return None
    deadline_s, user_facing = _deadline_s(task, name), _flag(task, name, "user_facing")
    if circuit is False:
        if deadline_s is not None:
            raise PlanError(f"task {name}: circuit=False takes it out of the middleware, so deadline_s has no effect")
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
        return Plan(_circuit_named_after(name), levels, deadline_s, user_facing)
    try:
        return Plan(_given_circuit(circuit), levels, deadline_s, user_facing)
    except ValueError as error:
        raise PlanError(f"task {name}: {error}") from None


def _given_circuit(circuit: Any) -> str:
    checked = check_name(circuit)
    if redact(checked) != checked:
        raise ValueError(f"circuit name {one_line(checked, 60)} is not usable: it looks like a secret")
    return checked


def near_misses(task: Any) -> Iterator[str]:
    """A sentence for each option that is nearly one of ours; other unknown options are Celery's business."""
    for cls in type(task).__mro__:
        if cls.__module__.startswith(OWN_PREFIXES) or cls is object:
            continue
        for option, value in vars(cls).items():
            if option in OPTIONS or option.startswith("_") or callable(value) or isinstance(value, property):
                continue
            near = difflib.get_close_matches(option, OPTIONS, n=1, cutoff=0.75)
            if near:
                yield f"task {task.name}: option {option} has no effect here: did you mean {near[0]}?"


def _deadline_s(task: Any, name: str) -> float | None:
    value = getattr(task, "deadline_s", None)
    if value is None:
        return None
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    if not usable:
        raise PlanError(f"task {name}: deadline_s={value!r} is not usable: seconds above 0 are right, such as 30")
    return float(value)


def _flag(task: Any, name: str, option: str) -> bool:
    value = getattr(task, option, False)
    if callable(value):
        return False  # a method of the user's own base class, which knew the word before we did
    if not isinstance(value, bool):
        raise PlanError(f"task {name}: {option}={value!r} is not usable: True or False is right")
    return value


def _circuit_named_after(task_name: str) -> str:
    """The task's name, or one made of it where it cannot name a circuit: blanks, other alphabets, great length."""
    try:
        return check_name(task_name)
    except ValueError:
        plain = re.sub(r"[^\w.:/@+-]+", "_", task_name, flags=re.ASCII)[:100]
        return f"{plain}-{hashlib.sha256(task_name.encode()).hexdigest()[:8]}"
