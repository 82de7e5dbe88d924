"""Celery: stock, or with the middleware where BENCH_RESILIENT is set; further settings as JSON in BENCH_CONF."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery
from ran import ran

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(json.loads(os.environ["BENCH_CONF"]))

of_ours: dict[str, Any] = {}
if "BENCH_RESILIENT" in os.environ:
    from resilience import Resilience, fallback_task

    Resilience(app)
    of_ours = {"circuit": "bench", "fallback": ["fallback"]}
    app.task(ran, name="replaced", ignore_result=True, circuit="bench", fallback=[fallback_task("plain")])

app.task(ran, name="plain", ignore_result=True)
app.task(ran, name="guarded", ignore_result=True, **of_ours)
