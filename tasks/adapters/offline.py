"""The last level: an honest reply that says that it is degraded, made without any service."""

from __future__ import annotations

from tasks.adapters import ChatAnswer


class Offline:
    """It cannot fail, and invents nothing."""

    def answer(self, prompt: str, request_id: str) -> ChatAnswer:  # noqa: ARG002  the shape of all adapters
        words = len(prompt.split())
        text = (
            f"Degraded reply: the chat service is not reachable, so no model has read this question "
            f"of {words} words. Please ask again later."
        )
        return ChatAnswer(text=text, model="none", source="offline", degraded=True)
