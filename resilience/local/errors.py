"""The one error of this room: a sentence for the person who typed the command."""

from __future__ import annotations


class EmbeddedPoolError(RuntimeError):
    """The embedded pool, or a process of it, cannot do what was asked; the text says why."""
