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
    """The circuits of the current app's middleware; of the only app that has one, in a thread without a current app.

    Raises PoolError when there is none, or when several could be meant.
    """
    from celery import _state

    resilience = getattr(_state.get_current_app(), "resilience", None)
    if resilience is None:
        # Celery makes an app current in the thread that made it, and in no other.
        apps = _state._get_active_apps()  # noqa: SLF001  there is no public way
        installed = [app for app in apps if hasattr(app, "resilience")]
        if len(installed) != 1:
            raise PoolError(_no_app(len(installed)))
        resilience = installed[0].resilience
    breakers: Breakers = resilience.breakers
    return breakers


def _no_app(installed: int) -> str:
    elsewhere = 'outside Celery use Breakers.from_url("redis://...").circuit(name)'
    if installed:
        return (
            f"{installed} Celery apps have Celeriac here, and none is current: call app.set_current(), or {elsewhere}"
        )
    return f"no Celery app has Celeriac here: call Resilience(app) first, or {elsewhere}"


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
