"""The main job: one line in, one answer out, through an OpenAI-compatible chat endpoint over HTTP.

On its home queue the task asks the primary API, on the fallback queue the secondary one; below these an honest
degraded reply stands in. Each level has its own circuit. All answers have one shape, so a caller sees which it got.
"""

from __future__ import annotations

from typing import Any

from resilience import fallback_task
from resilience.recovery.failover import journey_of
from tasks.adapters import ChatAnswer
from tasks.adapters.choice import adapter_at
from tasks.adapters.offline import Offline
from tasks.celery import app

CIRCUIT = "chat-api"
FALLBACK_QUEUE = "fallback"


@app.task(
    bind=True, name="tasks.chat", circuit=CIRCUIT,
    fallback=[FALLBACK_QUEUE, fallback_task("tasks.chat.offline_reply")],
)  # fmt: skip
def chat(self: Any, prompt: str) -> dict[str, Any]:
    """{"answer": str, "source": "primary" | "secondary" | "offline", "degraded": bool, "model": str}."""
    level = journey_of(self.request.headers, "").level
    return _told(adapter_at(level).answer(prompt, self.request.id))


@app.task(bind=True, name="tasks.chat.offline_reply", circuit=False)
def offline_reply(self: Any, prompt: str) -> dict[str, Any]:
    """The same, with source "offline" and degraded True."""
    return _told(Offline().answer(prompt, self.request.id))


def _told(answer: ChatAnswer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "source": answer.source,
        "degraded": answer.degraded,
        "model": answer.model,
    }
