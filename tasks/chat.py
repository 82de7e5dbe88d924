"""The main job: one line in, one answer out, through an OpenAI-compatible chat endpoint over HTTP.

On its home queue the task asks the primary API; on the fallback queue the secondary one, and where none is configured
it gives an honest degraded reply. All three keep the same shape, so a caller sees which it got.
"""

from __future__ import annotations

import os
from typing import Any

from resilience.recovery.failover import journey_of
from tasks.celery import app
from tasks.chat_client import SECONDARY, ChatAnswer, ChatApi, ask, offline_answer

CIRCUIT = "chat-api"
FALLBACK_QUEUE = "fallback"


@app.task(bind=True, name="tasks.chat", circuit=CIRCUIT, fallback=[FALLBACK_QUEUE])
def chat(self: Any, prompt: str) -> dict[str, Any]:
    """{"answer": str, "source": "primary" | "secondary" | "offline", "degraded": bool, "model": str}."""
    if journey_of(self.request.headers, "").level == 0:
        answer = ask(ChatApi.from_environment(), prompt, self.request.id)
    else:
        answer = _fallback_answer(prompt, self.request.id)
    return {
        "answer": answer.text,
        "source": answer.source,
        "degraded": answer.degraded,
        "model": answer.model,
    }


def _fallback_answer(prompt: str, request_id: str) -> ChatAnswer:
    if os.environ.get(f"{SECONDARY}API_URL"):
        return ask(ChatApi.from_environment(SECONDARY), prompt, request_id)
    return offline_answer(prompt)
