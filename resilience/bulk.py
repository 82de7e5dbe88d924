"""Many tasks at once: `send_all(signatures)` sends them in batches, one round trip each.

Each signature is sent with its own options, is routed and told by signals as a call of its own would be. What is
unusual about one (see `resilience.sending`; canvases too) is sent by itself, in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from celery._state import get_current_app
from celery.app import task as celery_task
from celery.canvas import Signature
from kombu.exceptions import OperationalError

from resilience.delivery.batch import Outcome
from resilience.delivery.bounded import may_have_been_sent
from resilience.delivery.original import is_original, theirs
from resilience.delivery.publishing import Parcel
from resilience.sending import Composed, LeanSender, are_everyday, has_any, is_plain

if TYPE_CHECKING:
    from celery import Celery

BATCH = 500
MOST_BYTES = 4_000_000
"""A batch that grows to this size is sent before it is full, so that a server is not asked to swallow more at once."""

_BY_ITSELF = ("producer", "connection", "retry", "retry_policy")
"""Options of a signature with which it is sent by itself."""


class NotAllSentError(OperationalError):
    """Sending many tasks failed in between. Nothing was sent twice, and each task is in one of three lists, in order.

    `sent`: results of tasks that were sent. `unknown`: results of tasks that the broker may have got, its answer having
    not arrived (the signature, where it had to be sent by itself). `not_sent`: signatures that were not sent. What an
    iterator had not yielded yet is in none of them.
    """

    def __init__(self, reason: str, sent: list[Any], unknown: list[Any], not_sent: list[Any]) -> None:
        super().__init__(reason)
        self.reason, self.sent, self.unknown, self.not_sent = reason, sent, unknown, not_sent

    def __str__(self) -> str:
        counts = f"{len(self.sent)} tasks were sent, {len(self.unknown)} may have been, {len(self.not_sent)} were not"
        return f"{counts}: {self.reason}"


def send_all(signatures: Iterable[Any], *, batch: int = BATCH, app: Celery | None = None) -> list[Any]:
    """Send the tasks of `signatures`, an iterator of any length, `batch` of them per round trip; results in order.

    `app`: whose broker and settings; default, the first signature's. Raises NotAllSentError, a kombu OperationalError.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one task, not {batch}")
    bulk: _Bulk | None = None
    for signature in signatures:
        if bulk is None:
            bulk = _Bulk(app or getattr(signature, "app", None) or get_current_app(), batch)
        bulk.add(signature)
    if bulk is None:
        return []
    bulk.flush()
    return bulk.sent


@dataclass(slots=True)
class _Waiting:
    """A task that is composed and not sent yet."""

    signature: Any
    composed: Composed
    parcel: Parcel
    result: Any


class _Bulk:
    """Collects for one app; what it is given is sent in the order in which it came."""

    def __init__(self, app: Celery, batch: int) -> None:
        self._app = app
        self._batch = batch
        self._sender = app.send_task if isinstance(app.send_task, LeanSender) else None
        self._is_everyday = self._look()
        self._waiting: list[_Waiting] = []
        self._size_bytes = 0
        self._tasks: dict[str, _Task | None] = {}
        self.sent: list[Any] = []

    def add(self, signature: Any) -> None:
        """Compose one, and send a batch that is full. Raises NotAllSentError."""
        if type(signature) is dict:  # as it came out of JSON
            signature = Signature.from_dict(signature, app=self._app)
        try:
            composed, options = self._composed(signature)
            parcel = composed.parcel() if composed is not None and composed.is_plain else None
        except Exception as error:
            raise self._stopped_at(signature, error) from error
        if composed is None or parcel is None:
            self._send_by_itself(signature, composed, options)
            return
        assert self._sender is not None
        self._waiting.append(_Waiting(signature, composed, parcel, self._sender.result(composed, options)))
        self._size_bytes += len(parcel.text)
        if len(self._waiting) >= self._batch or self._size_bytes >= MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is composed. Raises NotAllSentError."""
        waiting, self._waiting, self._size_bytes = self._waiting, [], 0
        self._is_everyday = self._look()
        if not waiting:
            return
        outcome = self._put(waiting)
        by_fate: dict[bool | None, list[_Waiting]] = {True: [], False: [], None: []}
        for each, fate in zip(waiting, outcome.fates, strict=True):
            by_fate[fate].append(each)
        for each in by_fate[True]:
            each.composed.tell_sent()
            self.sent.append(each.result)
        if outcome.error is not None:
            unknown, not_sent = [each.result for each in by_fate[None]], [each.signature for each in by_fate[False]]
            raise NotAllSentError(str(outcome.error), self.sent, unknown, not_sent) from outcome.error

    def _look(self) -> bool:
        """Whether tasks can be composed here now. Asked once per batch: Celery's configuration is slow to read."""
        return (
            self._sender is not None and not self._app.conf.task_always_eager and self._sender.is_everyday(by_task=True)
        )

    def _put(self, waiting: list[_Waiting]) -> Outcome:
        rule = self._app.amqp.publishing
        declare = list({each.composed.queue.name: each.composed.queue for each in waiting}.values())
        with self._app._acquire_producer(rule.wait_s) as producer:  # noqa: SLF001  as Celery's own send_task
            for each in waiting:
                if not each.composed.ignores_result:
                    self._app.backend.on_task_call(producer, each.composed.task_id)
            outcome: Outcome = producer.put_all(
                [each.parcel for each in waiting], declare, rule.policy if rule.retry else None
            )
        return outcome

    def _send_by_itself(self, signature: Any, composed: Composed | None, options: dict[str, Any]) -> None:
        try:
            self.flush()
        except NotAllSentError as error:
            error.not_sent.append(signature)
            raise
        try:
            if composed is None or self._sender is None:
                result = signature.apply_async()
            else:
                self._sender.send(composed)
                result = self._sender.result(composed, options)
        except Exception as error:
            raise self._stopped_at(signature, error) from error
        self.sent.append(result)

    def _stopped_at(self, signature: Any, error: Exception) -> NotAllSentError:
        number = len(self.sent) + len(self._waiting) + 1
        name = signature.get("task") if isinstance(signature, dict) else repr(signature)
        unsent = [each.signature for each in self._waiting]
        if may_have_been_sent(error):
            return NotAllSentError(str(error), self.sent, [signature], unsent)
        reason = f"signature {number} ({name}) cannot be sent: {error}"
        return NotAllSentError(reason, self.sent, [], [*unsent, signature])

    def _composed(self, signature: Any) -> tuple[Composed | None, dict[str, Any]]:
        """The message of one, and its options; no message if it is to be sent by itself, as it is."""
        sender = self._sender
        task = self._task_of(signature) if self._is_everyday else None
        if sender is None or task is None:
            return None, {}
        args, kwargs = signature["args"], signature["kwargs"]
        options = task.options(args, kwargs, signature["options"])
        if has_any(_BY_ITSELF, options) or not are_everyday(options):
            return None, {}
        routed = sender.routed(task.name, args, kwargs, options)
        if not is_plain(routed):
            return None, {}
        return sender.compose(task.name, args, kwargs, options, routed), options

    def _task_of(self, signature: Any) -> _Task | None:
        if type(signature) is not Signature:
            return None
        known = signature._type  # noqa: SLF001  `type` would look the task up
        if known is not None and known.app is not self._app:
            return None
        name = signature["task"]
        if name not in self._tasks:
            self._tasks[name] = _Task.of(name, self._app.tasks.get(name))
        return self._tasks[name]


@dataclass(frozen=True)
class _Task:
    """What Celery's `Task.apply_async` would work out anew for each signature."""

    name: str
    check: Callable[..., Any] | None
    own: dict[str, Any]

    @classmethod
    def of(cls, name: str, task: Any) -> _Task | None:
        """None if its `apply_async` is somebody else's, or may change the arguments."""
        if task is None:
            return cls(name, None, {})
        kind = type(task)
        if not (is_original(theirs(kind, "apply_async"), celery_task) and is_original(kind.shadow_name, celery_task)):
            return None
        if not is_original(kind.AsyncResult, celery_task):
            return None
        if task.__v2_compat__ or task._dump_pydantic_arguments is not None:  # noqa: SLF001  as Celery's own apply_async
            return None
        if task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit:
            return None
        own = {**task._get_exec_options(), "ignore_result": task.ignore_result}  # noqa: SLF001  the same
        own.update(task_type=task, result_cls=partial(task.app.AsyncResult, backend=task.backend, task_name=name))
        return cls(name, task.__header__ if task.typing else None, own)

    def options(self, args: Any, kwargs: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The options of a call. Raises TypeError for arguments that the task does not take."""
        if self.check is not None:
            self.check(*args, **kwargs)
        return {**self.own, **given}
