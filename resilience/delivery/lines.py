"""Connections of a worker's loop on which one command at a time is under way, and the wake-up from other threads."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from queue import Empty
from typing import Any

import redis
from kombu.utils.eventio import ERR, READ, poll

from resilience.delivery.kernel import Direct, direct

logger = logging.getLogger("celeriac")

ANSWER_S = 7.0
"""How long a line waits at most for bytes of a reply that has begun, for room to send, and for a connection."""

CLOSING_S = 2.0
"""The same at the end: what is not told by then, the pulse or the next connection tells."""


class Packed:
    """The first words of a command as the protocol has them, packed once for many commands that begin so."""

    def __init__(self, *words: str | int | bytes) -> None:
        self._count = len(words)
        self._words = _packed(words)

    def with_words(self, *words: str | int | bytes) -> bytes:
        """The bytes of the whole command."""
        return b"*%d\r\n%b%b" % (self._count + len(words), self._words, _packed(words))

    def with_word(self, word: str) -> bytes:
        """The same with one more."""
        coded = word.encode()
        return b"*%d\r\n%b$%d\r\n%b\r\n" % (self._count + 1, self._words, len(coded), coded)


def _packed(words: Iterable[str | int | bytes]) -> bytes:
    coded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in coded])


class Line:
    """One connection, read when the loop says that it is readable. Kombu's poller registers it as it does a client."""

    def __init__(self, channel: Any, kind: str) -> None:
        pool = channel.async_pool
        # Not out of the pool: it holds ten, and a worker may wait for more queues than that.
        self.connection = pool.connection_class(**bounded(pool.connection_kwargs))
        self.kind = kind
        self.busy = False
        self.broken = False
        self.sent_at = 0.0
        self.client_id = 0
        self._way_of: Any = None
        self._way: Direct | None = None

    def send(self, *words: Any) -> None:
        """Send a command whose reply `read` will take."""
        try:
            if self.connection._sock is None:  # noqa: SLF001  sending would connect too, but past Sentinel
                self.connection.connect()
            self.connection.send_command(*words)
        except GONE:
            self.break_off()
            raise
        self.busy, self.sent_at = True, time.monotonic()

    def send_packed(self, command: bytes) -> None:
        """The same of a command that `Packed` made."""
        try:
            rest = command[self._sent_at_once(command) :]
            if rest:
                self.connection.send_packed_command([rest], check_health=False)  # every line hears within seconds
        except GONE:
            self.break_off()
            raise
        self.busy, self.sent_at = True, time.monotonic()

    def read(self) -> Any:
        """The reply under way. Raises the server's error, or the connection's, which is then closed."""
        try:
            return self.connection.read_response()
        except GONE:
            self.break_off()
            raise
        finally:
            self.busy = False

    def read_string(self) -> Any:
        """The same, and at once where the reply is one string and all of it is there. Only one may be under way."""
        ways = self._direct()
        if ways is not None:
            with suppress(OSError):  # nothing there yet, or the end: the usual way tells
                reply = ways.take_string()
                if reply is not None:
                    self.busy = False
                    return reply
        return self.read()

    def _sent_at_once(self, command: bytes) -> int:
        ways = self._direct()
        if ways is not None:
            with suppress(OSError):  # the usual way waits for room, or says what is wrong
                return ways.send(command)
        return 0

    def _direct(self) -> Direct | None:
        sock = self.connection._sock  # noqa: SLF001  redis-py has no public way to its socket
        if sock is not self._way_of:
            self._way_of, self._way = sock, direct(sock)
        return self._way

    def overdue(self, after_s: float) -> bool:
        """No reply came for so long, and none lies there: a half-open connection never becomes readable."""
        return self.busy and time.monotonic() - self.sent_at > after_s and not self._has_bytes()

    def _has_bytes(self) -> bool:
        """Asks the kernel: redis-py's `can_read` takes what is there, and then no poll tells of it any more."""
        sock = self.connection._sock  # noqa: SLF001  redis-py has no public way to its socket
        if sock is None:
            return False
        looking = poll()
        try:
            looking.register(sock.fileno(), READ | ERR)
            return bool(looking.poll(0))
        finally:
            looking.close()

    def bound(self, seconds: float) -> None:
        """Wait no longer than this from now on."""
        sock = self.connection._sock  # noqa: SLF001  redis-py has no public way to change the limit of an open socket
        if sock is not None:
            sock.settimeout(seconds)

    def break_off(self) -> None:
        """The connection is gone, whatever the socket says."""
        self.broken = True
        self.close()

    def ask(self, *words: Any) -> Any:
        """A command and its reply, waited for."""
        self.send(*words)
        return self.read()

    def ask_all(self, commands: Sequence[bytes]) -> None:
        """Packed commands in one round trip, replies included. Raises the first of the server's refusals, after all."""
        if not commands:
            return
        refusals = []
        self.send_packed(b"".join(commands))
        for _ in commands:
            try:
                self.read()
            except redis.ResponseError as error:  # noqa: PERF203  each has its own, and all must be read
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def close(self) -> None:
        self.busy, self.client_id = False, 0
        self.connection.disconnect()


GONE = (OSError, EOFError, redis.ConnectionError, redis.TimeoutError)
"""What a connection raises that is of no use any more; the server's own refusals are others."""


def bounded(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a connection, with a limit where the user set none: the worker's loop stands still meanwhile."""
    limits = {name: ANSWER_S for name in ("socket_timeout", "socket_connect_timeout") if name in options}
    return {**options, **{name: options[name] or limit for name, limit in limits.items()}}


class Wake:
    """Makes the loop's poll return when another thread has something for it. Looks like a `Line` to the poller."""

    kind = "WAKE"

    def __init__(self) -> None:
        self._theirs, self._sock = socket.socketpair()
        self._theirs.setblocking(False)
        self._sock.setblocking(False)
        tell, hear = direct(self._theirs), direct(self._sock)
        self._tell = tell.send if tell else self._theirs.send
        self._hear = hear.receive if hear else self._sock.recv
        self._lock, self._closed = threading.Lock(), False

    @property
    def connection(self) -> Wake:
        return self

    def __call__(self) -> None:
        with self._lock:
            if not self._closed:
                with suppress(OSError):  # full: it will wake anyway
                    self._tell(b"x")

    def heard(self) -> None:
        """Called by the poller: nothing was delivered, the turn that follows does what is to be done."""
        with suppress(BlockingIOError):
            self._hear(4096)  # more than anybody says before it is heard; else the loop comes round once more
        raise Empty

    def close(self) -> None:
        with self._lock:  # what is told later must not reach another socket that has got the same number
            self._closed = True
            self._theirs.close()
        self._sock.close()
