"""A message from the quarantine to a queue of a broker that is not Redis."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kombu.utils.encoding import ensure_bytes

from resilience.quarantine.desk import Publish
from resilience.quarantine.reading import ReplayError, body_bytes

if TYPE_CHECKING:
    from celery import Celery

_NOT_SENT = (
    "body_encoding",
    "delivery_info",
    "delivery_tag",
    "expiration",
    "content_type",
    "content_encoding",
    "headers",
)


def publisher(app: Celery) -> Publish:
    """Publishes over a connection of its own and waits until the broker has confirmed it, where the broker can."""

    def publish(raw: bytes, queue: str) -> None:
        try:
            envelope = json.loads(raw)
            body, properties = body_bytes(envelope), dict(envelope["properties"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ReplayError("it is no message, so this broker cannot take it") from None
        for name in _NOT_SENT:
            properties.pop(name, None)
        options = {**(app.conf.broker_transport_options or {}), "confirm_publish": True}
        with app.connection_for_write(transport_options=options) as connection:
            app.amqp.Producer(connection, auto_declare=False).publish(
                ensure_bytes(body), exchange="", routing_key=queue, headers=envelope.get("headers") or {},
                content_type=envelope.get("content-type"), content_encoding=envelope.get("content-encoding"),
                retry=False, **properties,
            )  # fmt: skip

    return publish
