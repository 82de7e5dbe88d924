"""Ports on the loopback interface: find a free one, or say in one sentence that the asked one is taken."""

from __future__ import annotations

import errno
import socket

from resilience.local.errors import EmbeddedPoolError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on at this moment; whoever uses it must cope with losing the race for it."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int, what_for: str, instead: str) -> None:
    """Raise EmbeddedPoolError when `port` cannot be bound; `instead` ends the sentence with what to do."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use by another process" if taken else f"cannot be used ({error.strerror})"
            raise EmbeddedPoolError(f"port {port} for {what_for} {why}: {instead}") from error


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Whether somebody on the loopback interface accepts a connection to `port`."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False
