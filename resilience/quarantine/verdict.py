"""The word that a task is given up, on its way from where its code ran to the main process, which has the message.

It travels on Celery's `ExceptionInfo`, which reaches the main process of every pool whatever becomes of the exception:
many exceptions cannot be pickled, and arrive as one of their base classes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Any

from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_failure

from resilience.errors.taxonomy import Strategy
from resilience.errors.wrapped import WrappedError
from resilience.quarantine.record import Reason
from signals.redact import describe

logger = logging.getLogger("celeriac")

_ATTRIBUTE = "_celeriac_verdict"


@dataclass(frozen=True)
class Verdict:
    """`error`: what is known of it, as data (see `resilience.wrap`)."""

    reason: Reason
    detail: str
    error: Mapping[str, Any] | None = None

    @classmethod
    def of_failure(cls, strategy: Strategy, tried: bool, why: str, wrapped: WrappedError) -> Verdict:
        """The matrix gave up, for the reason `why`; `tried`: not before it had tried again, or had wanted to."""
        by_the_matrix = Reason.ABANDONED if strategy is Strategy.ABANDON else Reason.FAILED
        return cls(Reason.EXHAUSTED if tried else by_the_matrix, f"{why}: {wrapped}", wrapped.to_json())

    def counts(self, mode: str) -> bool:
        """Whether the message is quarantined: `mode` is the setting `quarantine_abandoned`."""
        if mode == "all" or self.reason in (Reason.WRONG_ARGUMENTS, Reason.POISON, Reason.LOST):
            return True
        return mode == "matrix" and self.reason is not Reason.FAILED


def give_up(task: Any, request: Any, error: Exception, spent: bool, mode: str) -> None:
    """This attempt is the last: note what its message is quarantined for, if it is. Never raises.

    `spent`: the task asked for its retries itself, and has no more. `mode` is the setting `quarantine_abandoned`.
    """
    try:
        if isinstance(error, (Ignore, Reject, Retry, *(getattr(task, "throws", None) or ()))):
            return
        verdict = noted(request)
        if verdict is None and spent:
            verdict = Verdict(Reason.EXHAUSTED, f"the retries that it asked for are spent: {describe(error)}")
        elif verdict is None:
            verdict = Verdict(Reason.FAILED, describe(error))
        fault = misfit(task, request.args, request.kwargs, error)
        if fault:
            verdict = Verdict(Reason.WRONG_ARGUMENTS, fault, verdict.error)
        note(request, verdict if verdict.counts(mode) else None)
    except Exception:
        logger.exception("celeriac: no verdict about %s[%s]", task.name, request.id)


def note(request: Any, verdict: Verdict | None) -> None:
    """Where the code runs: this attempt ends for good, for this reason; None: it is no matter of the quarantine."""
    setattr(request, _ATTRIBUTE, verdict)


def noted(request: Any) -> Verdict | None:
    return getattr(request, _ATTRIBUTE, None)


def connect() -> None:
    """Have what was noted travel with the failure."""
    task_failure.connect(_travels, weak=False, dispatch_uid="celeriac:verdict")


def arrived(exc_info: Any) -> Verdict | None:
    """In the main process: what was noted, if anything."""
    verdict = getattr(exc_info, _ATTRIBUTE, None)
    return verdict if isinstance(verdict, Verdict) else None


def _travels(sender: Any = None, task_id: str = "", einfo: Any = None, **_: Any) -> None:
    request = getattr(sender, "request", None)
    verdict = noted(request)
    if verdict is not None and einfo is not None and getattr(request, "id", None) == task_id:
        setattr(einfo, _ATTRIBUTE, verdict)


def misfit(task: Any, args: Any, kwargs: Any, error: BaseException) -> str:
    """Why `task` cannot be called with these arguments, if that is what `error` says; "" if its body had begun."""
    if not isinstance(error, TypeError):
        return ""
    run = getattr(task, "_orig_run", task.run)  # beneath the wrapper of autoretry_for, which takes everything
    function = getattr(run, "__func__", run)
    if _passed_through(error.__traceback__, getattr(function, "__code__", None)):
        return ""
    try:
        signature = inspect.signature(run, follow_wrapped=False)
    except (TypeError, ValueError):
        return ""  # a callable that tells nothing of itself
    try:
        signature.bind(*(args or ()), **(kwargs or {}))
    except TypeError as refusal:
        return f"{task.name} cannot be called with its arguments: {refusal}"
    return ""


def _passed_through(trace: TracebackType | None, code: CodeType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False
