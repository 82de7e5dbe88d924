"""Who this process is. A worker's children speak for their worker; elsewhere each process speaks for itself."""

from __future__ import annotations

import os
import socket
import uuid

_pinned: str | None = None
_own: tuple[int, str] | None = None


def pin() -> str:
    """Fix this process's identity for itself and for every child it forks from now on; returns it."""
    global _pinned  # noqa: PLW0603  one process, one identity
    _pinned = _fresh()
    return _pinned


def owner() -> str:
    """`host:pid:random`, unique to one start of one process."""
    global _own  # noqa: PLW0603  computed once per process, again after a fork
    if _pinned is not None:
        return _pinned
    pid = os.getpid()
    if _own is None or _own[0] != pid:
        _own = (pid, _fresh())
    return _own[1]


def _fresh() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
