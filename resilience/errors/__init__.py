"""What kind of error it is and what helps against it: the taxonomy as data, and the classifier that feeds it."""

from resilience.errors.classify import Classified, classify, rule
from resilience.errors.taxonomy import (
    MATRIX,
    CircuitOpenError,
    ErrorCategory,
    PermanentError,
    PoolError,
    Row,
    Severity,
    Strategy,
    TransientError,
)

__all__ = [
    "MATRIX",
    "CircuitOpenError",
    "Classified",
    "ErrorCategory",
    "PermanentError",
    "PoolError",
    "Row",
    "Severity",
    "Strategy",
    "TransientError",
    "classify",
    "rule",
]
