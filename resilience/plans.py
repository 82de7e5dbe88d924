"""What a task's options ask of the middleware, read once per task."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Collection, Iterator
from typing import Any

from resilience.breaker.policy import check_name
from resilience.recovery.failover import Level, OnOpen, Plan
from signals.redact import one_line, redact

OWN_PREFIXES = ("celery.", "resilience.")
OPTIONS = ("circuit", "fallback", "on_open", "deadline_s", "user_facing")
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
    deadline_s, user_facing, on_open = _deadline_s(task, name), _flag(task, name, "user_facing"), _on_open(task, name)
    if circuit is False:
        if deadline_s is not None:
            raise PlanError(f"task {name}: circuit=False takes it out of the middleware, so deadline_s has no effect")
        return None
    try:
        circuit = _circuit_named_after(name) if circuit is None else _given_circuit(circuit)
    except ValueError as error:
        raise PlanError(f"task {name}: {error}") from None
    plan = Plan(circuit, _levels(task, name), deadline_s, user_facing, on_open)
    try:
        for level in range(1, len(plan.levels) + 1):
            check_name(plan.circuit_at(level))
    except ValueError as error:
        raise PlanError(f"task {name}: the circuit of a fallback level: {error}") from None
    return plan


def fallback_task(name: str, queue: str | None = None) -> Level:
    """A fallback level for `fallback=[...]`: the task `name` stands in, with the same arguments, id and result.

    It runs on `queue`; without one, on the queue where the task that it stands in for belongs. Options of its own as
    `circuit` and `fallback` have no effect there. Raises PlanError.
    """
    if not isinstance(name, str) or not name.strip():
        raise PlanError(
            f"fallback_task({name!r}) is not usable: the name of a task is right, such as 'tasks.chat.offline_reply'"
        )
    try:
        return Level(check_name(queue) if queue is not None else "", name)
    except ValueError:
        raise PlanError(f"fallback_task({name!r}, queue={queue!r}) is not usable: queue takes a queue's name") from None


def unknown_substitutes(plan: Plan, task: str, known: Collection[str]) -> Iterator[str]:
    """A sentence for each level of `task` whose substitute no worker of the app could run. `known`: the app's tasks.

    One with a queue of its own may be a task of another app's workers.
    """
    for level in plan.levels:
        if level.task and not level.queue and level.task not in known:
            near = difflib.get_close_matches(level.task, list(known), n=1)
            hint = f"did you mean {near[0]}?" if near else "is its module imported by the worker?"
            yield f"task {task}: fallback_task({level.task!r}) names no task of this app: {hint}"


def _levels(task: Any, name: str) -> tuple[Level, ...]:
    fallback = getattr(task, "fallback", None) or ()
    if callable(fallback):
        return ()  # a method of the user's own base class, which knew the word before we did
    if isinstance(fallback, (str, Level)):
        fallback = (fallback,)
    try:
        levels = tuple(level if isinstance(level, Level) else Level(check_name(level)) for level in fallback)
    except (TypeError, ValueError):
        raise PlanError(
            f"task {name}: fallback={fallback!r} is not usable: a list of queue names, or fallback_task(...), is right"
        ) from None
    for number, level in enumerate(levels):
        if level.task == name:
            raise PlanError(f"task {name}: fallback_task({name!r}) is the task itself: another task is right")
        if level.name in [earlier.name for earlier in levels[:number]]:
            raise PlanError(f"task {name}: its fallback level {level.name} is named twice: once is right")
    return levels


def _on_open(task: Any, name: str) -> OnOpen:
    value = getattr(task, "on_open", None)
    if value is None or callable(value):
        return OnOpen.FAILOVER  # callable: a method of the user's own base class, which knew the word before we did
    try:
        return OnOpen(value)
    except ValueError:
        raise PlanError(
            f"task {name}: on_open={value!r} is not usable: 'failover', 'park' or 'fail' is right"
        ) from None


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
