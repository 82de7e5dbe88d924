"""What kind of error it is and what helps against it: the taxonomy as data, and the classifier that feeds it."""

from resilience.errors.advice import ADVICE, Advice
from resilience.errors.classify import Classified, classify, rule
from resilience.errors.context import ErrorContext
from resilience.errors.overrides import MatrixError, matrix_with
from resilience.errors.severity import may_retry, severity_at, time_budget_s
from resilience.errors.taxonomy import (
    MATRIX,
    CircuitOpenError,
    ErrorCategory,
    NotReadyError,
    PermanentError,
    PoolError,
    Row,
    Severity,
    Strategy,
    TransientError,
)
from resilience.errors.wrapped import WrappedError
from resilience.errors.wrapping import wrap

__all__ = [
    "ADVICE",
    "MATRIX",
    "Advice",
    "CircuitOpenError",
    "Classified",
    "ErrorCategory",
    "ErrorContext",
    "MatrixError",
    "NotReadyError",
    "PermanentError",
    "PoolError",
    "Row",
    "Severity",
    "Strategy",
    "TransientError",
    "WrappedError",
    "classify",
    "matrix_with",
    "may_retry",
    "rule",
    "severity_at",
    "time_budget_s",
    "wrap",
]
