"""Categories, severities, strategies and the matrix that joins them. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ErrorCategory(str, Enum):
    INITIALIZATION = "initialization_error"
    CONNECTION = "connection_error"
    COMMUNICATION = "communication_error"
    TIMEOUT = "timeout_error"
    RESOURCE = "resource_error"
    HEALTH_CHECK = "health_check_error"
    SESSION = "session_error"
    PYTHON = "python_error"
    SYSTEM = "system_error"
    RATE_LIMIT = "rate_limit"
    SERVER = "server_error"
    AUTH = "auth_error"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"


class Severity(str, Enum):
    CRITICAL = "critical"
    MAJOR = "major"
    MINOR = "minor"
    WARNING = "warning"


class Strategy(str, Enum):
    CIRCUIT_BREAK = "circuit_break"
    BACKOFF_RETRY = "backoff_retry"
    IMMEDIATE_RETRY = "immediate_retry"
    FAILOVER = "failover"
    ABANDON = "abandon"


class Growth(str, Enum):
    """How the delay before a retry grows from one attempt to the next."""

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    NONE = "none"


@dataclass(frozen=True)
class Row:
    """What to do about one category.

    `max_retries` counts runs after the first. `transient`: it may pass by itself. `counts`: a circuit records it.
    """

    severity: Severity
    strategy: Strategy
    max_retries: int
    growth: Growth
    transient: bool
    counts: bool


_C, _S, _G = ErrorCategory, Strategy, Growth
_CRITICAL, _MAJOR, _MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR

MATRIX: dict[ErrorCategory, Row] = {
    _C.INITIALIZATION: Row(_CRITICAL, _S.CIRCUIT_BREAK, 3, _G.EXPONENTIAL, transient=True, counts=True),
    _C.CONNECTION: Row(_MAJOR, _S.BACKOFF_RETRY, 5, _G.EXPONENTIAL, transient=True, counts=True),
    _C.COMMUNICATION: Row(_MAJOR, _S.IMMEDIATE_RETRY, 3, _G.LINEAR, transient=True, counts=True),
    _C.TIMEOUT: Row(_MAJOR, _S.BACKOFF_RETRY, 2, _G.EXPONENTIAL, transient=True, counts=True),
    _C.RESOURCE: Row(_CRITICAL, _S.CIRCUIT_BREAK, 1, _G.NONE, transient=True, counts=True),
    _C.HEALTH_CHECK: Row(_MINOR, _S.BACKOFF_RETRY, 3, _G.LINEAR, transient=True, counts=True),
    _C.SESSION: Row(_MINOR, _S.IMMEDIATE_RETRY, 2, _G.NONE, transient=True, counts=True),
    # permanent unless a fallback exists; never counts: the dependency is not what broke
    _C.PYTHON: Row(_MAJOR, _S.FAILOVER, 1, _G.NONE, transient=False, counts=False),
    _C.SYSTEM: Row(_CRITICAL, _S.ABANDON, 0, _G.NONE, transient=False, counts=False),
    _C.RATE_LIMIT: Row(_MINOR, _S.BACKOFF_RETRY, 5, _G.EXPONENTIAL, transient=True, counts=True),
    _C.SERVER: Row(_MAJOR, _S.BACKOFF_RETRY, 3, _G.EXPONENTIAL, transient=True, counts=True),
    _C.AUTH: Row(_CRITICAL, _S.ABANDON, 0, _G.NONE, transient=False, counts=False),
    _C.INVALID_REQUEST: Row(_MINOR, _S.ABANDON, 0, _G.NONE, transient=False, counts=False),
    _C.NOT_FOUND: Row(_MINOR, _S.ABANDON, 0, _G.NONE, transient=False, counts=False),
}


class PoolError(Exception):
    """Base of the errors that Celeriac raises."""


class TransientError(PoolError):
    """Raise it (or a subclass) for a failure that may pass by itself: it is retried."""


class PermanentError(PoolError):
    """Raise it (or a subclass) for a failure that no retry helps: it is given up at once."""


class DeadlineError(PermanentError):
    """The task was not begun: its deadline had passed."""


class NotReadyError(PoolError):
    """Raise it (or a subclass) in a task that its worker cannot run now: a connection or another resource is gone.

    The task goes to another worker without spending a retry, and this one takes no tasks until it is ready again.
    """


class CircuitOpenError(PoolError):
    """The circuit lets this call not through now.

    Attributes: `name` of the circuit; `state`: open, half_open, forced_open, or ramping (closed a moment ago, traffic
    grows again); `retry_after_s`: seconds until it is worth asking again (0 while probes are under way).
    """

    def __init__(self, name: str, state: str = "open", retry_after_s: float = 0.0) -> None:
        super().__init__(name, state, retry_after_s)
        self.name = name
        self.state = state
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        match self.state:
            case "forced_open":
                when = "an operator keeps it open, `celery -A <app> breaker show` says who and why"
            case "ramping":
                when = f"it closed a moment ago and lets in a growing share of calls for {self.retry_after_s:.1f} s"
            case _ if self.retry_after_s > 0:
                when = f"a probe may pass in {self.retry_after_s:.1f} s"
            case _:
                when = "probes are under way"
        return f"circuit {self.name} is {self.state}: {when}"
