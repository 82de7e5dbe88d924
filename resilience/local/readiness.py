"""Which workers answer: Celery's own ping over the broker, without the user's app and on a connection of our
own.

An app's `control.ping` would publish through that app's configured broker, which is not necessarily this
pool's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

DEFAULT_EXCHANGE = "celery"  # Celery's own default for `control_exchange`


class WorkerPing:
    """Pings over one connection to `broker_url`; a context manager. `app` gives exchange and transport options."""

    def __init__(self, broker_url: str, app: Any | None = None) -> None:
        from kombu import Connection
        from kombu.pidbox import Mailbox

        options = dict(app.conf.broker_transport_options or {}) if app is not None else {} exchange =
        app.conf.control_exchange if app is not None else DEFAULT_EXCHANGE self._connection =
        Connection(broker_url, transport_options=options) mailbox = Mailbox(exchange, type="fanout",
        accept=["json"], serializer="json", reply_queue_expires=10.0) self._mailbox =
        mailbox(self._connection)

    def __enter__(self) -> WorkerPing:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.release()

    def answering(self, nodes: Collection[str], timeout_s: float) -> set[str]:
        """Those of `nodes` that answered; returns at once when all did, else when none did for `timeout_s`."""
        replies = self._mailbox.call(sorted(nodes), "ping", {}, timeout=timeout_s)
        return {node for reply in replies or () for node in reply}
