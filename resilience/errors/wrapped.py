"""An error with everything that is known about it, in words for a person and as data for a program.

It holds nothing that was not redacted, except the original exception itself, which stays in this process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from resilience.errors.advice import ADVICE, NEXT
from resilience.errors.context import ErrorContext
from resilience.errors.taxonomy import ErrorCategory, PoolError, Severity, Strategy
from resilience.errors.travel import DescribedError, packed, unpacked


class WrappedError(PoolError):
    """An exception and its `context`. Made by `resilience.wrap`; `raise wrap(error, ...)` needs no `from`.

    `original`, also `__cause__`, is the wrapped exception. After a journey to another process it is a copy if it
    could travel without giving away a secret, else a `DescribedError` that says what it was.
    """

    def __init__(self, context: ErrorContext | Mapping[str, Any], original: BaseException | None = None) -> None:
        """`context` may be the data that `to_json` wrote: so Celery's result backends build it again from `args`.

        Raises ValueError with one sentence when it is neither.
        """
        if not isinstance(context, ErrorContext):
            context = ErrorContext.from_json(context)
        super().__init__(context.to_json())
        self.context = context
        # A cause of its own, as pools put the text of a traceback in the place of __cause__ on the way home.
        self._original = original if original is not None else DescribedError(context.error_type, context.message)
        self.__cause__ = self._original

    @property
    def original(self) -> BaseException:
        """The wrapped exception."""
        return self._original

    @property
    def category(self) -> ErrorCategory:
        return self.context.category

    @property
    def severity(self) -> Severity:
        return self.context.severity

    @property
    def strategy(self) -> Strategy:
        return self.context.strategy

    @property
    def attempt(self) -> int:
        return self.context.attempt

    def __str__(self) -> str:
        context = self.context
        place = f"{context.operation}: " if context.operation else ""
        return f"{place}{context.category.value} on attempt {context.attempt}: {_said(context)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def format_for_logging(self, then: str = "") -> str:
        """Several lines: what happened, where, why, how to fix it, and what happens next.

        `then` says what was decided; without it, what the error's strategy foresees.
        """
        context = self.context
        advice = ADVICE[context.category]
        asked = "" if context.retry_after_s is None else f", the server asks to wait {context.retry_after_s:g} s"
        lines = [
            ("what", f"{context.category.value}, {context.severity.value}, {_times(context)}"),
            ("where", _place(context)),
            ("why", advice.why),
            ("fix", advice.fix),
            ("next", then or NEXT[context.strategy] + asked),
            ("data", json.dumps(dict(context.metadata), ensure_ascii=False) if context.metadata else ""),
        ]
        head = f"{context.operation or context.task or 'a call'} failed: {_said(context)}"
        return "\n".join([head, *(f"  {label + ':':6} {text}" for label, text in lines if text)])

    def to_json(self) -> dict[str, Any]:
        """The context as data that a strict `json.dumps` takes as it is."""
        return self.context.to_json()

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | str) -> WrappedError:
        """The error that `to_json` wrote, as data or as text. Raises ValueError with one sentence for anything else."""
        return cls(ErrorContext.from_json(json.loads(values) if isinstance(values, str) else values))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.context, packed(self._original))


def _rebuilt(cls: type[WrappedError], context: ErrorContext, original: bytes | None) -> WrappedError:
    error = cls.__new__(cls)
    WrappedError.__init__(error, context, unpacked(original))  # a subclass may ask for other arguments
    return error


def _said(context: ErrorContext) -> str:
    return context.message or context.error_type


def _times(context: ErrorContext) -> str:
    parts = [f"attempt {context.attempt}"]
    if context.elapsed_s is not None:
        parts.append(f"after {context.elapsed_s:.2f} s")
    if context.started_at is not None:
        begun = datetime.fromtimestamp(context.started_at, timezone.utc)
        parts.append(f"begun {begun:%Y-%m-%d %H:%M:%S} UTC")
    return ", ".join(parts)


def _place(context: ErrorContext) -> str:
    task = context.task + (f"[{context.task_id}]" if context.task_id else "")
    named = (("task", task), ("worker", context.worker), ("circuit", context.circuit), ("session", context.session))
    return ", ".join(f"{label} {text}" for label, text in named if text)
