"""The producer that tasks are published with: kombu's own, without what it does again for every message.

Everything that decides about a message (signals, routing, stamps, headers, serializers, exchanges) is still Celery's
and kombu's code; saved are copies of entities that were declared before, and a client object per message.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import kombu
import redis
from kombu import messaging, serialization
from kombu.compression import compress
from kombu.entity import maybe_delivery_mode
from kombu.exceptions import EncodeError, OperationalError
from kombu.utils.functional import ChannelPromise
from kombu.utils.json import JSONEncoder
from kombu.utils.json import dumps as json_dumps
from kombu.utils.uuid import uuid

from resilience.delivery.batch import Outcome, put_batch
from resilience.delivery.bounded import REFUSED, may_have_been_sent
from resilience.delivery.original import is_original
from resilience.delivery.transport import Connection
from signals.redact import redact

_ENCODER = JSONEncoder()
_ARGUMENTS = frozenset(("priority", "expiration", "immediate", "mandatory"))
"""Of the properties, those that kombu's `publish` takes as arguments."""

_TOLD = (OperationalError, redis.TimeoutError, redis.ConnectionError)


@dataclass(frozen=True)
class Publishing:
    """What an app's configuration says about every message; read once, as Celery reads it."""

    retry: bool
    policy: dict[str, Any]
    delivery_mode: Any
    serializer: str
    compression: str | None
    wait_s: float | None
    """How long a call waits for a free producer."""

    @classmethod
    def of(cls, conf: Any) -> Publishing:
        return cls(
            conf.task_publish_retry,
            conf.task_publish_retry_policy,
            conf.task_default_delivery_mode,
            conf.task_serializer,
            conf.task_compression,
            conf.broker_pool_acquire_timeout,
        )


@dataclass(slots=True)
class Parcel:
    """A message ready for a queue's list: the text as kombu's Redis channel writes it."""

    queue: str
    priority: int
    text: str
    headers: dict[str, Any]

    @classmethod
    def packed(
        cls, body: Any, headers: dict[str, Any], properties: dict[str, Any], queue: str, publishing: dict[str, Any]
    ) -> Parcel:
        """As kombu's Producer and channel would do it. `publishing`: serializer, compression, delivery_mode.

        Raises EncodeError for a body that cannot be serialized.
        """
        content_type, content_encoding, data = _serialized(body, publishing["serializer"])
        if publishing["compression"]:
            data, headers["compression"] = compress(data, publishing["compression"])
        own = {name: value for name, value in properties.items() if name not in _ARGUMENTS}
        own["delivery_mode"] = maybe_delivery_mode(publishing["delivery_mode"])
        expiration = properties.get("expiration")
        if expiration is not None:
            own["expiration"] = str(int(expiration * 1000))
        own["delivery_info"] = {"exchange": "", "routing_key": queue}
        priority = own["priority"] = properties.get("priority") or 0
        own["body_encoding"] = "base64"
        own["delivery_tag"] = uuid()
        message = {
            "body": b64encode(data if isinstance(data, bytes) else data.encode()).decode(),
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": own,
        }
        return cls(queue, _within_bounds(priority), _ENCODER.encode(message), headers)


def _serialized(body: Any, serializer: str) -> tuple[str, str, Any]:
    """As kombu's `dumps`, whose JSON makes an encoder anew for each body. Raises EncodeError."""
    known = serialization.registry._encoders.get(serializer)  # noqa: SLF001  a user may have registered another JSON
    if known is None or known.encoder is not json_dumps:
        found: tuple[str, str, Any] = serialization.dumps(body, serializer=serializer)
        return found
    try:
        return known.content_type, known.content_encoding, _ENCODER.encode(body)
    except Exception as error:
        raise EncodeError(error) from error


def _within_bounds(priority: Any) -> int:
    """The priority that kombu sorts the message under."""
    try:
        return max(0, min(9, int(priority)))
    except (TypeError, ValueError):
        return 0


class PublishingProducer(kombu.Producer):
    """Kombu's Producer for Redis: bounded in time, and its errors say what became of the message."""

    def revive(self, channel: Any) -> None:
        """Take a connection, or a channel, to publish through."""
        if not isinstance(channel, Connection):
            super().revive(channel)
            return
        channel.bind_time(channel.publish_bound_s)
        if self.exchange.name or self.on_return:
            super().revive(channel)
            return
        # kombu copies its nameless exchange here to bind it to the channel, which nothing needs
        self.__connection__ = channel
        self._channel = ChannelPromise(lambda: channel.default_channel)

    def maybe_declare(self, entity: Any, retry: bool = False, **policy: Any) -> Any:
        """Declare what was not declared on this connection; kombu copies the entity before it looks."""
        connection = self.__connection__
        known = connection.declared_entities if connection is not None else ()
        if entity and entity.can_cache_declaration and hash(entity) in known:
            return False
        return super().maybe_declare(entity, retry, **policy)

    def publish(self, body: Any, *args: Any, **options: Any) -> Any:
        """As kombu's. Raises OperationalError with a sentence that tells whether the message may have been sent."""
        try:
            return super().publish(body, *args, **options)
        except _TOLD as error:
            self._tell(error, options.get("headers") or {})
            raise

    def put(self, parcel: Parcel, declare: list[Any], policy: dict[str, Any] | None) -> None:
        """Publish what is packed already; with a `policy`, tried again as it says. Raises as `publish`."""

        def attempt() -> None:
            channel = self.channel
            for entity in declare:
                self.maybe_declare(entity)
            if channel.puts_plainly(parcel.queue):
                channel.put_text(parcel.queue, parcel.priority, parcel.text)
            else:
                channel._put(parcel.queue, json.loads(parcel.text))  # noqa: SLF001  as kombu's channels call it

        connection = self.__connection__
        assert connection is not None
        try:
            if policy is None:
                attempt()
            else:
                connection.ensure(self, attempt, **policy)()
        except _TOLD as error:
            self._tell(error, parcel.headers)
            raise

    def put_all(self, parcels: list[Parcel], declare: list[Any], policy: dict[str, Any] | None) -> Outcome:
        """Publish many in one round trip. Tried again only while nothing of it was written. Raises nothing of Redis."""

        def attempt() -> Outcome:
            channel = self.channel
            for entity in declare:
                self.maybe_declare(entity)
            return put_batch(channel, parcels)

        connection = self.__connection__
        assert connection is not None
        try:
            outcome: Outcome = attempt() if policy is None else connection.ensure(self, attempt, **policy)()
        except _TOLD as error:
            outcome = Outcome([False] * len(parcels), error)
        if outcome.error is not None:
            outcome.error = OperationalError(self._reason(outcome.error))
        return outcome

    @property
    def takes_parcels(self) -> bool:
        """Whether it leads to Redis, in kombu's usual encoding."""
        connection = self.__connection__
        if not isinstance(connection, Connection) or not connection.is_repaired:
            return False
        if not is_original(kombu.Producer.publish, messaging):
            return False  # somebody wants to see every message there
        if getattr(self._batch_local, "current", None) is not None:
            return False  # kombu collects what is published now
        return (
            self.serializer is None and self.compression is None and "body_encoding" not in connection.transport_options
        )

    def _tell(self, error: BaseException, headers: dict[str, Any]) -> None:
        """Raise an error of the same kind with a sentence, unless the connection is none of ours."""
        if isinstance(self.__connection__, Connection) and self.__connection__.is_repaired:
            kind = next(kind for kind in _TOLD if isinstance(error, kind))
            raise kind(self._sentence(error, headers)) from error

    def _sentence(self, error: BaseException, headers: dict[str, Any]) -> str:
        what = f"task {headers['task']}[{headers['id']}]" if {"task", "id"} <= headers.keys() else "a message"
        outcome = "may have been sent" if may_have_been_sent(error) else "was not sent"
        return f"{what} {outcome}: {self._reason(error)}"

    def _reason(self, error: BaseException) -> str:
        connection = self.__connection__
        assert connection is not None
        broker = redact(connection.as_uri())
        cause: BaseException | None = error
        while isinstance(cause, OperationalError):
            cause = cause.__cause__
        detail = redact(str(cause or error)).rstrip(".")
        if isinstance(cause, redis.TimeoutError):
            limit_s = connection.transport_options.get("socket_timeout")
            return f"the broker {broker} did not answer within {limit_s} s ({detail})"
        if isinstance(cause, REFUSED):
            return f"the broker {broker} refused it ({detail})"
        return f"the broker {broker} is away ({detail})"
