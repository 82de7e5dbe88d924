"""Work that keeps state between calls: a conversation that counts its turns, on the session worker (threads pool)."""

from __future__ import annotations

from tasks.celery import app


@app.task(name="tasks.session.echo")
def echo(session_id: str, text: str) -> dict[str, str]:
    """Return the text with its session; the session worker's smoke test until sessions stick to workers."""
    return {"session_id": session_id, "text": text}
