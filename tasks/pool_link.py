"""The run's link to the pool: publish a prompt, look many results up in one round trip, forget them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import redis.backoff
import redis.exceptions
import redis.retry
from celery import Celery, states
from celery.backends.base import BaseKeyValueStoreBackend
from celery.result import denied_join_result
from kombu.exceptions import OperationalError

_SENTENCE_LIMIT = 300
_CHUNK = 500
_KEY_REFUSED = re.compile(
    r"\b401\b.{0,3}unauthorized|\bauth_error\b|AuthenticationError|(?:invalid|incorrect)[ _]api[ _]key"
    r"|(?:HTTP|status(?: code)?)[ :]*401\b",
    re.IGNORECASE,
)
_LOST_WORKER = ("WorkerLostError", "Terminated")


class LinkError(Exception):
    """The pool cannot be used from here; the message is one sentence."""


AWAY: tuple[type[Exception], ...] = (
    OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    ConnectionError,
    TimeoutError,
)
"""What publishing and looking up raise while the broker or the backend is away."""


@dataclass(frozen=True)
class Outcome:
    """What is stored about one task; `mark` changes whenever that changes."""

    status: str
    result: Any
    mark: int

    @property
    def succeeded(self) -> bool:
        return bool(self.status == states.SUCCESS)

    @property
    def failed(self) -> bool:
        return self.status in states.EXCEPTION_STATES and self.status in states.READY_STATES

    @property
    def ended(self) -> bool:
        return self.succeeded or self.failed

    @property
    def worker_was_lost(self) -> bool:
        """The worker died under the task, which says nothing about the line."""
        return self.failed and _error_parts(self.result)[0] in _LOST_WORKER

    @property
    def key_was_refused(self) -> bool:
        return self.failed and bool(_KEY_REFUSED.search(" ".join(_error_parts(self.result))))

    def sentence(self) -> str:
        """The error in one line."""
        if self.status == states.REVOKED:
            return "The task was revoked."
        kind, message = _error_parts(self.result)
        line = " ".join(message.split("For more information check:")[0].split())
        return f"{kind}: {line}"[:_SENTENCE_LIMIT] if line else f"{kind}."


def _error_parts(result: Any) -> tuple[str, str]:
    """Type and text of a stored exception, without making it one again: its class may not be here."""
    if isinstance(result, dict):
        message = result.get("exc_message", "")
        parts = message if isinstance(message, list | tuple) else [message]
        return str(result.get("exc_type", "Error")), " ".join(str(part) for part in parts)
    return type(result).__name__, str(result)


class PoolLink:
    """One app, one task."""

    def __init__(self, app: Celery, task: Any) -> None:
        """`task` is a task object, or a name; a name of another project's task works too."""
        self._app = app
        self._task = app.tasks.get(task, task) if isinstance(task, str) else task
        self._backend = app.backend
        if not isinstance(self._backend, BaseKeyValueStoreBackend):
            raise LinkError(
                "The app has no result backend that finds results by key: set result_backend to a Redis URL."
            )
        client = getattr(self._backend, "client", None)
        if client is not None and hasattr(client, "set_retry"):
            # redis-py tries ten times by itself; a run that waits must still hear its stop signal.
            client.set_retry(redis.retry.Retry(redis.backoff.NoBackoff(), 0))

    def check(self) -> None:
        """Raise LinkError when the broker or the result backend does not answer."""
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            except AWAY as exc:
                raise LinkError(
                    f"The broker {connection.as_uri()} cannot be reached ({type(exc).__name__}): "
                    "start it, or give another URL."
                ) from exc
        try:
            self.look_up(["00000000-0000-0000-0000-000000000000"])
        except AWAY as exc:
            raise LinkError(
                f"The result backend {self._backend.as_uri()} cannot be reached ({type(exc).__name__}): "
                "start it, or set another."
            ) from exc

    def publish(self, prompt: str, task_id: str) -> None:
        """Send one prompt; raises one of AWAY when that did not work."""
        # Results are looked up in bulk: no subscription per task (which is what this context turns off).
        with denied_join_result():
            if isinstance(self._task, str):
                self._app.send_task(self._task, args=(prompt,), task_id=task_id)
            else:
                self._task.apply_async(args=(prompt,), task_id=task_id)

    def look_up(self, ids: Collection[str]) -> dict[str, Outcome]:
        """What is stored about these tasks, in one round trip; raises one of AWAY."""
        if not ids:
            return {}
        payloads = self._backend.mget([self._backend.get_key_for_task(task_id) for task_id in ids])
        return {
            task_id: self._outcome(payload)
            for task_id, payload in zip(ids, payloads, strict=True)
            if payload is not None
        }

    def forget(self, ids: Iterable[str]) -> None:
        """Delete these results, many per round trip where the backend can; raises one of AWAY."""
        keys = [self._backend.get_key_for_task(task_id) for task_id in ids]
        client = getattr(self._backend, "client", None)
        if client is not None and hasattr(client, "unlink"):
            for start in range(0, len(keys), _CHUNK):
                client.unlink(*keys[start : start + _CHUNK])
        else:
            for key in keys:
                self._backend.delete(key)

    def _outcome(self, payload: Any) -> Outcome:
        meta = self._backend.decode(payload)
        return Outcome(meta["status"], meta.get("result"), hash(payload))
