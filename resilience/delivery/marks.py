"""The mark that a task has begun: made before it can do harm, by one cheap system call and no message of its own.

A claim lies among the worker's `unbegun` ones until its tag is taken out, by a mark or by its end. So a mark that
arrives after the end of its task changes nothing, and one needs no memory of a server that is full.

Where the system can, marks go over a corked socket: the kernel has a mark when `say` returns, before the task begins,
and sends it together with others, after 0.2 s at the latest, whatever the process does meanwhile: a task that stops
the process, or that never lets go of the interpreter, does not hold it back. And it sends all that it has when the
process ends, however that ends, SIGKILL included. Nobody looks at the marks of a worker before it has been dead, or
silent, for longer than that.
One thing would have the kernel throw them away: a process that ends with unread answers resets its connection. So the
server is told not to answer here at all; where it will not hear of that, every mark is sent at once, as the answers
are read later.
The call to the kernel does not wait and keeps the interpreter's lock (see `kernel.py`).
What is lost is the mark of a task that brings down the whole machine, the kernel included, within 0.2 s of its begin.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import redis

from resilience.delivery.kernel import Direct, direct
from resilience.delivery.lines import Packed, bounded

logger = logging.getLogger("celeriac")

QUIET_S = 1.0
"""After so long without a word it is looked at whether the server closed the connection: the kernel would still take
one mark."""

UNREAD = 50
"""So many short answers lie unread before they are looked at: looking costs more than saying."""

_CORK = getattr(socket, "TCP_CORK", None)  # of Linux


class Marker:
    """Marks from any thread and does not wait for the answer: what was said outlives a SIGKILL.

    `unbegun` is the key of the worker's set; `unmarked` has the tags to be marked, which a turn may take as well.
    Connected by the loop; after trouble it stays silent until the loop tends it.
    """

    def __init__(self, channel: Any, unbegun: str, unmarked: deque[str]) -> None:
        pool = channel.async_pool
        self._mark = Packed("SREM", unbegun)
        self._unmarked = unmarked
        self._connection = pool.connection_class(**bounded(pool.connection_kwargs))
        self._direct: Direct | None = None
        self._works = False
        self._is_answered = True
        self._unanswered = 0
        self._said_at = 0.0
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Be ready to speak: before the first task begins."""
        self._connection.connect()
        self._unanswered = 0
        self._is_answered = not self._hush()
        sock = self._connection._sock  # noqa: SLF001  redis-py has no public way to its socket
        if not self._is_answered and _CORK is not None:
            with suppress(OSError):  # a Unix socket has no cork
                sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        self._direct = None if self._is_answered else direct(sock)
        self._works = True

    def tend(self) -> None:
        """Speak again after trouble, such as a server that ends idle connections. Called by the loop now and then."""
        with self._lock:
            if self._works:
                return
            try:
                self._connection.disconnect()
                self.connect()
            except (OSError, redis.RedisError) as error:
                logger.debug("celeriac: started tasks are still marked by the turns: %s", error)

    def say(self) -> None:
        """Mark what is to be marked, if anything; what cannot be sent is left to the turns."""
        with self._lock:
            if not self._works:
                return
            tag = ""
            try:
                now = time.monotonic()
                if self._unanswered >= UNREAD or now - self._said_at > QUIET_S:
                    self._listen()
                self._said_at = now
                while self._unmarked:
                    tag = self._unmarked.popleft()
                    self._send(self._mark.with_word(tag))
                    self._unanswered += self._is_answered
            except IndexError:
                return  # a turn took the last one meanwhile
            except BlockingIOError:
                self._unmarked.appendleft(tag)  # the kernel takes no more for now
            except (OSError, redis.RedisError) as error:
                self._works = False
                if tag:
                    self._unmarked.appendleft(tag)
                logger.debug("celeriac: started tasks are marked by the turns from now on: %s", error)

    def _hush(self) -> bool:
        """Have the server answer no more; False where this user may not, or a proxy does not know that."""
        off, on = (Packed("CLIENT", "REPLY", word).with_words() for word in ("OFF", "ON"))
        self._connection.send_packed_command([off + on], check_health=False)
        try:
            self._connection.read_response()
        except redis.ResponseError:
            with suppress(redis.ResponseError):
                self._connection.read_response()
            return False
        self._connection.send_packed_command([off], check_health=False)
        return True

    def _send(self, command: bytes) -> None:
        if self._direct is None:
            self._connection.send_packed_command([command], check_health=False)  # that check would wait for an answer
        elif self._direct.send(command) != len(command):
            raise OSError(errno.EPIPE, "the kernel took half of a command: nothing can follow it")

    def _listen(self) -> None:
        """Read what there is. Raises ConnectionError where that is the end."""
        while self._connection.can_read(timeout=0):
            self._connection.read_response()
            self._unanswered -= 1

    def close(self) -> None:
        with self._lock:
            self._works = False
            self._connection.disconnect()
