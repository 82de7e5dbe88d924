"""The ways to answer a chat prompt, all of one shape: a primary API, a secondary one, an honest reply without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ChatAnswer:
    """An answer and who gave it; `degraded` means that no model read the question."""

    text: str
    model: str
    source: str
    degraded: bool = False


class ChatAdapter(Protocol):
    """One way to answer. Raises what its service raises; what to do about that is the middleware's business."""

    def answer(self, prompt: str, request_id: str) -> ChatAnswer:
        """Answer once; `request_id` names the attempt to the service."""
        ...
