"""The task base class: admission where the code runs, and what happens to a failure.

Everything goes through `__call__`, which Celery's tracer uses instead of `run`. A direct call of the task as a
function is left alone. Options a task sets for itself (`autoretry_for`, `max_retries`) win over the matrix.
"""

from __future__ import annotations

from typing import Any, ClassVar

from celery import Task

OPTIONS = ("circuit", "fallback")


class ResilientTask(Task):
    """Celery's Task with a circuit, fallback levels, and retries by the error matrix.

    `circuit`: name of the dependency's circuit; None means the task's own name, False means none.
    `fallback`: queue names, tried in order when the circuit is open or retries are spent.
    """

    abstract = True
    Request = "resilience.request:ResilientRequest"

    circuit: ClassVar[str | bool | None] = None
    fallback: ClassVar[tuple[str, ...] | list[str]] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        # as in Celery's own stack protection: only the outermost call of a task in a worker is a run
        is_run = request is not None and not request.called_directly and len(self.request_stack) == 1
        resilience = getattr(self.app, "resilience", None) if is_run else None
        if resilience is None or request.is_eager:
            return super().__call__(*args, **kwargs)
        runner = resilience.runner
        runner.enter(self, request)
        try:
            return super().__call__(*args, **kwargs)
        except Exception as error:
            runner.failed(self, request, error)
            raise
