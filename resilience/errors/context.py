"""What is known about a failure, as a value: redacted when it is made, so that no exit can leak what it never held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from resilience.errors.taxonomy import ErrorCategory, Severity, Strategy
from signals.redact import JsonValue, one_line, redact_value

MESSAGE_LIMIT = 1_000
NAME_LIMIT = 200
_LATEST = 253_402_300_799.0  # the end of the year 9999: a later date cannot be shown

_ENUMS: dict[str, Any] = {"category": ErrorCategory, "severity": Severity, "strategy": Strategy}
_TEXTS = ("error_type", "operation", "task_id", "task", "worker", "session", "circuit")
_SECONDS = ("started_at", "elapsed_s", "retry_after_s")


@dataclass(frozen=True)
class ErrorContext:
    """Kind, place and time of one failure.

    `message`: what the original said. `started_at`: epoch seconds; `elapsed_s`: seconds until it failed;
    `retry_after_s`: seconds that the server asked to wait. An empty text or None means unknown. Texts are redacted
    and cut, metadata becomes plain data (see `signals.redact.redact_value`).
    """

    category: ErrorCategory
    severity: Severity
    strategy: Strategy
    error_type: str
    message: str
    attempt: int = 1
    operation: str = ""
    task_id: str = ""
    task: str = ""
    worker: str = ""
    session: str = ""
    circuit: str = ""
    started_at: float | None = None
    elapsed_s: float | None = None
    retry_after_s: float | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        clean: dict[str, Any] = {name: one_line(getattr(self, name), NAME_LIMIT) for name in _TEXTS}
        clean |= {name: _seconds(getattr(self, name)) for name in _SECONDS}
        clean["message"] = one_line(self.message, MESSAGE_LIMIT)
        data = redact_value(self.metadata)
        clean["metadata"] = MappingProxyType(data if isinstance(data, dict) else {"metadata": data})
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Every field, as data that a strict `json.dumps` takes as it is."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {name: values[name].value for name in _ENUMS}
        return {**values, "metadata": dict(self.metadata)}

    def __getstate__(self) -> dict[str, Any]:
        return self.to_json()

    def __setstate__(self, values: dict[str, Any]) -> None:
        values = values | {name: kind(values[name]) for name, kind in _ENUMS.items()}
        for name, value in {**values, "metadata": MappingProxyType(values["metadata"])}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ErrorContext:
        """The context that `to_json` wrote; what a newer version added is left out.

        Raises ValueError with one sentence for anything else.
        """
        try:
            known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
            enums = {name: kind(known[name]) for name, kind in _ENUMS.items()}
        except (KeyError, TypeError, ValueError):
            shown = one_line(repr(values), 120)
            raise ValueError(f"an error's context names a category, a severity and a strategy, not {shown}") from None
        for name, value in known.items():
            if not _fits(name, value):
                raise ValueError(f"an error's context has a wrong {name}: {one_line(repr(value), 60)}")
        return cls(**{"error_type": "", "message": "", **known, **enums})


def _fits(name: str, value: object) -> bool:
    if name in _TEXTS or name == "message":
        return isinstance(value, str)
    if name in _SECONDS:
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    if name == "attempt":
        return type(value) is int
    return isinstance(value, Mapping) if name == "metadata" else True


def _seconds(value: float | None) -> float | None:
    # compared before it is made a float, which too large a whole number cannot be
    return float(value) if value is not None and 0 <= value <= _LATEST else None
