"""The app. Broker and result backend come from CELERY_BROKER_URL and CELERY_RESULT_BACKEND.

It is adopted as any project would adopt it: two lines, and a policy for the circuit of its upstream.
"""

from __future__ import annotations

import os

from celery import Celery

from resilience import Resilience

SESSION_QUEUE = "sessions"

app = Celery("celeriac", include=["tasks.chat", "tasks.session"])
app.conf.update(
    broker_url=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1"),
    result_expires=86_400,
    task_track_started=True,
    task_routes={"tasks.session.*": {"queue": SESSION_QUEUE}},
    worker_prefetch_multiplier=2,
    worker_hijack_root_logger=True,
)
resilience = Resilience(app)
