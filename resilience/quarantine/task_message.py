"""Whether Celery can take a task message without harm. Pure.

Celery trusts what a message says of itself: a time limit that is a text, an id that is a list or an embedded chord of a
wrong shape raises somewhere inside the worker, which ends, or holds a slot for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from resilience.delivery.eta import is_text

_TEXT, _NUMBER, _FLAG, _LIST, _TABLE = "a text", "a whole number", "true or false", "a list", "a table"
_FIELDS: dict[str, tuple[tuple[type, ...], str]] = {
    "shadow": ((str,), _TEXT),
    "root_id": ((str,), _TEXT),
    "parent_id": ((str,), _TEXT),
    "group": ((str,), _TEXT),
    "retries": ((int,), _NUMBER),
    "group_index": ((int,), _NUMBER),
    "replaced_task_nesting": ((int,), _NUMBER),
    "ignore_result": ((bool, int), _FLAG),
    "stamped_headers": ((list, tuple), _LIST),
    "stamps": ((dict,), _TABLE),
}
_NONE = [None, None]
"""The limits of nearly every task."""

_EMBEDDED_LISTS = ("callbacks", "errbacks", "chain")


def fault_of(told: Mapping[str, Any], args: Any, kwargs: Any, embed: Any) -> str:
    """What is wrong with a task message, as one sentence; "" when Celery can take it.

    `told`: what the message says of the task, in its headers or, by protocol 1, in its body; `embed`: the tasks that
    belong to it.
    """
    task_id = told.get("id")
    if type(task_id) is not str or not task_id or not is_text(task_id):
        return "its id is not a text"
    for name, (kinds, right) in _FIELDS.items():
        value = told.get(name)
        if value is not None and type(value) not in kinds:
            return f"its {name} is not {right}"
    limits = told.get("timelimit")
    if limits is not None and limits != _NONE and not _are_limits(limits):
        return "its timelimit is not a pair of seconds"
    if not isinstance(args, (list, tuple)):
        return "its arguments are not a list"
    if not isinstance(kwargs, dict) or (kwargs and not all(type(name) is str for name in kwargs)):
        return "its keyword arguments are not a table of names"
    return _fault_of_embedded(embed)


def _fault_of_embedded(embed: Any) -> str:
    if not isinstance(embed, dict):
        return "what it says of other tasks is not a table"
    for name in _EMBEDDED_LISTS:
        value = embed.get(name)
        if value and not (isinstance(value, (list, tuple)) and all(map(_is_signature, value))):
            return f"its {name} are not a list of tasks"
    chord = embed.get("chord")
    return "" if not chord or _is_signature(chord) else "its chord is not a task"


def _are_limits(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_limit, value))


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value) and value >= 0)


def _is_signature(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("task"), str)
        and isinstance(value.get("args") or (), (list, tuple))
        and isinstance(value.get("kwargs") or {}, dict)
        and isinstance(value.get("options") or {}, dict)
    )
