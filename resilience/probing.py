"""One call of somebody's probe, bounded in time: it asks whether a thing is there, and must not hold up who asks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from signals.redact import describe

Probe = Callable[[], object]
"""Passes unless it raises or returns False."""

_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "postgresql": 5432}


class Probing:
    """A call under way, in a thread of its own that nobody can stop: one that hangs keeps its thread.

    `why_not` is "" when the probe passed; it is known when `ended` says so. `began`: monotonic seconds.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._done = threading.Event()
        self._why_not = ""
        self.began = time.monotonic()
        threading.Thread(target=self._run, name="celeriac-probe", daemon=True).start()

    def ended(self, within_s: float) -> bool:
        """Wait for its end for so long."""
        return self._done.wait(within_s)

    @property
    def why_not(self) -> str:
        """Why the thing is not there, "" if it is; of a call under way, how long it has been that."""
        return self._why_not if self._done.is_set() else f"no answer for {time.monotonic() - self.began:.1f} s"

    def _run(self) -> None:
        try:
            if self._probe() is False:
                self._why_not = "the probe said no"
        except BaseException as error:  # noqa: BLE001  whatever a probe raises means no, SystemExit too
            self._why_not = describe(error) or type(error).__name__
        finally:
            self._done.set()


def listens(url: str, timeout_s: float = 1.0) -> Probe:
    """A probe that opens and closes a TCP connection to the host and port of `url`. Raises ValueError without them."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError("the URL to probe names no host and port: one like https://host/path is right")
    address = parts.hostname, port

    def probe() -> None:
        socket.create_connection(address, timeout_s).close()

    return probe
