"""The app. Broker and result backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND.

It is adopted as any project would adopt it: two lines, and a policy for the circuit of its upstream.
"""

from __future__ import annotations

from celery import Celery

from resilience import Resilience

SESSION_QUEUE = "sessions"

app = Celery("celeriac", include=["tasks.chat", "tasks.session"])
# Defaults only: `pool up` and `pool demo` start a Redis of their own unless a broker is configured.
app.add_defaults({"broker_url": "redis://localhost:6379/0", "result_backend": "redis://localhost:6379/1"})
app.conf.update(
    result_expires=86_400,
    task_track_started=True,
    task_routes={"tasks.session.*": {"queue": SESSION_QUEUE}},
    worker_prefetch_multiplier=2,
)
resilience = Resilience(app)
