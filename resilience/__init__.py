"""Celeriac's middleware: what to do when something breaks. Two lines make a Celery app resilient:

    from resilience import Resilience
    Resilience(app)

The public names are handed on lazily, so that importing a pure module imports neither Celery nor Redis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience.breaker.guard import Breakers
    from resilience.breaker.policy import BreakerPolicy
    from resilience.bulk import NotAllSentError, send_all
    from resilience.current import circuit
    from resilience.errors.classify import classify, rule
    from resilience.errors.taxonomy import (
        CircuitOpenError,
        ErrorCategory,
        NotReadyError,
        PermanentError,
        PoolError,
        Severity,
        Strategy,
        TransientError,
    )
    from resilience.errors.wrapping import wrap
    from resilience.middleware import Resilience
    from resilience.plans import fallback_task
    from resilience.recovery.patience import current_patience
    from resilience.retry import backoff
    from resilience.retry.call import with_retry
    from resilience.services import NoServiceError, Service, Services
    from resilience.settings import Settings

_HOMES = {
    "BreakerPolicy": "resilience.breaker.policy",
    "Breakers": "resilience.breaker.guard",
    "CircuitOpenError": "resilience.errors.taxonomy",
    "ErrorCategory": "resilience.errors.taxonomy",
    "PermanentError": "resilience.errors.taxonomy",
    "NotAllSentError": "resilience.bulk",
    "NoServiceError": "resilience.services",
    "NotReadyError": "resilience.errors.taxonomy",
    "PoolError": "resilience.errors.taxonomy",
    "Resilience": "resilience.middleware",
    "Service": "resilience.services",
    "Services": "resilience.services",
    "Settings": "resilience.settings",
    "Severity": "resilience.errors.taxonomy",
    "Strategy": "resilience.errors.taxonomy",
    "TransientError": "resilience.errors.taxonomy",
    "backoff": "resilience.retry.backoff",
    "circuit": "resilience.current",
    "classify": "resilience.errors.classify",
    "current_patience": "resilience.recovery.patience",
    "fallback_task": "resilience.plans",
    "rule": "resilience.errors.classify",
    "send_all": "resilience.bulk",
    "wrap": "resilience.errors.wrapping",
    "with_retry": "resilience.retry.call",
}

__all__ = [
    "BreakerPolicy",
    "Breakers",
    "CircuitOpenError",
    "ErrorCategory",
    "NoServiceError",
    "NotAllSentError",
    "NotReadyError",
    "PermanentError",
    "PoolError",
    "Resilience",
    "Service",
    "Services",
    "Settings",
    "Severity",
    "Strategy",
    "TransientError",
    "backoff",
    "circuit",
    "classify",
    "current_patience",
    "fallback_task",
    "rule",
    "send_all",
    "with_retry",
    "wrap",
]


def _require_our_signals() -> None:
    """A project's own module named `signals` can stand in front of ours; say so before anything odd happens."""
    import signals

    if getattr(signals, "DISTRIBUTION", None) != "celeriac":
        where = getattr(signals, "__file__", None) or ", ".join(getattr(signals, "__path__", ["an unknown place"]))
        raise ImportError(
            f"the name `signals` belongs to {where} here, but Celeriac needs its own package of that name: "
            "rename that module, or move it into a package of your project"
        )


_require_our_signals()


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'resilience' has no attribute {name!r}")
    module = import_module(home)
    value = module if name == "backoff" else getattr(module, name)  # the one name that is a module
    globals()[name] = value
    return value
