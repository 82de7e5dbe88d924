"""The circuits of the current Celery app, for code that names none."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from resilience.breaker.calls import CircuitCalls
from resilience.breaker.policy import BreakerPolicy, check_name
from resilience.errors.taxonomy import PoolError

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers


def current_breakers() -> Breakers:
    """The circuits of the current app's middleware. Raises PoolError when it has none."""
    from celery import current_app

    resilience = getattr(current_app, "resilience", None)
    if resilience is None:
        # Celery makes an app named "default" up when there is none
        which = f" {current_app.main}" if current_app.main not in (None, "default") else ", if there is one yet,"
        raise PoolError(
            f"the current Celery app{which} has no Celeriac: call Resilience(app) first, or outside Celery use "
            'Breakers.from_url("redis://...").circuit(name)'
        )
    breakers: Breakers = resilience.breakers
    return breakers


def circuit(name: str, policy: BreakerPolicy | None = None) -> CircuitCalls:
    """A circuit of the current app: for `with`, `async with`, and as a decorator of sync and async functions.

    The app is looked up at the first call, so that a module may decorate its functions before the app is made.
    """
    check_name(name)
    if policy is None:
        return CircuitCalls(name, current_breakers)

    told: weakref.WeakSet[Breakers] = weakref.WeakSet()

    def with_policy() -> Breakers:
        breakers = current_breakers()
        if breakers not in told:  # once: said with every call, two policies of one circuit would take turns
            breakers.circuit(name, policy)
            told.add(breakers)
        return breakers

    return CircuitCalls(name, with_policy)
