"""Connections of a worker's loop on which one command at a time is under way, and the wake-up from other threads."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from queue import Empty
from typing import Any


class Line:
    """One connection, read when the loop says that it is readable. Kombu's poller registers it as it does a client."""

    def __init__(self, channel: Any, kind: str) -> None:
        pool = channel.async_pool
        # Not out of the pool: it holds ten, and a worker may wait for more queues than that.
        self.connection = pool.connection_class(**pool.connection_kwargs)
        self.kind = kind
        self.busy = False
        self.sent_at = 0.0
        self.client_id = 0

    def send(self, *words: Any) -> None:
        """Send a command whose reply `read` will take."""
        self.connection.send_command(*words)
        self.busy, self.sent_at = True, time.monotonic()

    def read(self) -> Any:
        """The reply under way. Raises the server's error, or the connection's, which is then closed."""
        try:
            return self.connection.read_response()
        except (OSError, EOFError):
            self.close()
            raise
        finally:
            self.busy = False

    def ask(self, *words: Any) -> Any:
        """A command and its reply, waited for."""
        self.send(*words)
        return self.read()

    def close(self) -> None:
        self.busy, self.client_id = False, 0
        self.connection.disconnect()


class Wake:
    """Makes the loop's poll return when another thread has something for it. Looks like a `Line` to the poller."""

    kind = "WAKE"

    def __init__(self) -> None:
        self._theirs, self._sock = socket.socketpair()
        self._theirs.setblocking(False)
        self._sock.setblocking(False)

    @property
    def connection(self) -> Wake:
        return self

    def __call__(self) -> None:
        with suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody is left to wake
            self._theirs.send(b"x")

    def heard(self) -> None:
        """Called by the poller: nothing was delivered, the turn that follows does what is to be done."""
        with suppress(BlockingIOError):
            while self._sock.recv(4096):
                pass
        raise Empty

    def close(self) -> None:
        self._theirs.close()
        self._sock.close()
