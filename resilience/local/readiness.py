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
    """Pings over a connection to `broker_url`; a context manager. `app` gives exchange and options."""

    def __init__(self, broker_url: str, app: Any | None = None) -> None:
        from kombu import connection, pidbox

        connect: Any = connection.Connection  # kombu's annotations are partial: strict mypy refuses the calls
        make_mailbox: Any = pidbox.Mailbox
        options = dict(app.conf.broker_transport_options or {}) if app is not None else {}
        exchange = app.conf.control_exchange if app is not None else DEFAULT_EXCHANGE
        self._connection = connect(broker_url, transport_options=options)
        mailbox = make_mailbox(exchange, type="fanout", accept=["json"], serializer="json")
        self._mailbox = mailbox(self._connection)

    def __enter__(self) -> WorkerPing:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.release()

    def answering(self, nodes: Collection[str], timeout_s: float) -> set[str]:
        """Those of `nodes` that answered; returns when all did, else when none did for `timeout_s`."""
        replies = self._mailbox.call(sorted(nodes), "ping", {}, timeout=timeout_s)
        return {node for reply in replies or () for node in reply}
