"""A socket's kernel asked at once: neither waits nor lets go of the interpreter's lock.

Python lets go of that lock for each call to the kernel, however short, and a thread of the pool takes it: to get it
back costs two changes of threads, often from one processor to another, which is more than the call. So what is sent
and read once or more in each turn goes this way: where the system's library is at hand, and nothing encrypts.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # of POSIX
_MOST_BYTES = 65_536
_LONGEST_HEAD = 24
"""Of a reply in one string: "$", its length, and the end of the line."""


def direct(sock: Any) -> Direct | None:
    """None where only the usual way leads to the peer of this socket."""
    if not _DONT_WAIT or not isinstance(sock, socket.socket) or isinstance(sock, ssl.SSLSocket):
        return None
    try:
        return Direct(sock)
    except (ImportError, OSError, AttributeError):  # a Python that cannot call the system's library
        return None


class Direct:
    """Each call raises OSError as that of a socket does, BlockingIOError where it would wait."""

    def __init__(self, sock: socket.socket) -> None:
        import ctypes

        library = ctypes.PyDLL(None, use_errno=True)  # unlike CDLL's, its calls keep the interpreter's lock
        size, whole, text = ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p
        self._send, self._recv = library.send, library.recv
        self._send.argtypes, self._send.restype = (whole, text, size, whole), ctypes.c_ssize_t
        self._recv.argtypes, self._recv.restype = (whole, text, size, whole), ctypes.c_ssize_t
        self._errno, self._string_at = ctypes.get_errno, ctypes.string_at
        self._new = ctypes.create_string_buffer
        self._into: Any = None
        self._number_of = sock.fileno  # -1 once it is closed, which the kernel refuses

    def send(self, data: bytes) -> int:
        """Says how many bytes the kernel took."""
        taken = int(self._send(self._number_of(), data, len(data), _DONT_WAIT))
        if taken < 0:
            raise self._error()
        return taken

    def receive(self, most: int = _MOST_BYTES, flags: int = 0) -> bytes:
        """What has come, at most so many bytes and 65,536; b"" at the end of the stream."""
        if self._into is None:
            self._into = self._new(_MOST_BYTES)
        came = int(self._recv(self._number_of(), self._into, min(most, _MOST_BYTES), flags | _DONT_WAIT))
        if came < 0:
            raise self._error()
        return bytes(self._string_at(self._into, came))

    def take_string(self) -> bytes | None:
        """A reply of Redis that is one string, if all of it has come; else None, and nothing is taken."""
        seen = self.receive(flags=socket.MSG_PEEK)
        head, end, _ = seen[:_LONGEST_HEAD].partition(b"\r\n")
        if not end or head[:1] != b"$" or not head[1:].isdigit():
            return None
        begin, length = len(head) + 2, int(head[1:])
        if len(seen) < begin + length + 2:
            return None
        self.receive(begin + length + 2)
        return seen[begin : begin + length]

    def _error(self) -> OSError:
        number = self._errno()
        return OSError(number, os.strerror(number))
