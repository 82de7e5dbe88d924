"""Where there is no Redis the middleware steps aside and says so; it fails no task and no worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = """
import logging, sys
from celery import Celery
from resilience import Resilience

logging.basicConfig(stream=sys.stderr)
app = Celery("memory", broker="memory://", backend="cache+memory://")
Resilience(app)

@app.task(circuit="x", fallback=["fallback"])
def double(n):
    return 2 * n

if __name__ == "__main__":
    from celery.contrib.testing.worker import start_worker
    with start_worker(app, perform_ping_check=False, pool="threads"):
        print([double.delay(n).get(timeout=10) for n in range(5)])
    app.conf.task_always_eager = True
    print(double.delay(21).get())
"""


def test_a_memory_broker_runs_tasks_without_circuits_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "project.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 2, 4, 6, 8]\n42\n"
    assert done.stderr.count("circuits are off: no Redis for breaker state") == 1
