"""A task whose worker or child died while it ran has waited long enough: it begins before what else waits here.

Its message comes back to the front of its queue. Without this it would stand behind the whole window of the worker that
takes it, which may be a minute's work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilience.delivery.deaths import goes_first


def was_interrupted(request: Any) -> bool:
    """Whether it is the request of such a task; False of anything that is no request."""
    return goes_first(getattr(request, "request_dict", None))


def stand_in_line(line: Any, one: Any, goes_first: Callable[[Any], bool]) -> None:
    """Insert `one` into the deque `line` behind those that go first, too. Others may take from its front meanwhile."""
    place = 0
    try:
        while goes_first(line[place]):
            place += 1
    except IndexError:
        line.append(one)
    else:
        line.insert(place, one)


def let_interrupted_go_first(controller: Any) -> None:
    """Of the requests that wait for a slot of a prefork pool. Other pools have no such line, or one of their own."""
    semaphore: Any = getattr(controller, "semaphore", None)
    line = getattr(semaphore, "_waiting", None)
    if line is None:
        return

    def add(waiter: tuple[Any, ...]) -> None:
        if _waits_interrupted(waiter):
            stand_in_line(line, waiter, _waits_interrupted)
        else:
            line.append(waiter)

    semaphore._add_waiter = add  # noqa: SLF001  kombu's semaphore has no public way to order those that wait


def _waits_interrupted(waiter: tuple[Any, ...]) -> bool:
    arguments = waiter[1]
    return bool(arguments) and was_interrupted(arguments[0])
