"""With a broker that is not Redis the quarantine lies in the circuits' Redis, and a replay is published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = """
import json, sys
from celery import Celery
from resilience import PermanentError, Resilience
from resilience.testing import until

app = Celery("elsewhere", broker="memory://", backend=sys.argv[1])
res = Resilience(app)
app.conf.resilience_redis_url = sys.argv[1]
healed = []

@app.task
def visit(number):
    if not healed:
        raise PermanentError("closed")
    healed.append(number)

from celery.contrib.testing.worker import start_worker
with start_worker(app, perform_ping_check=False, pool="threads"):
    sent = visit.delay(7)
    app.send_task("nobody.knows", (1,))
    found = until(lambda: len(res.quarantine.list()) == 2 and res.quarantine.list(), what="both arrived")
    healed.append("yes")
    (mine,) = [record for record in found if record.task_id == sent.id]
    outcome = res.quarantine.replay([mine.id], actor="ada", reason="mended")
    until(lambda: healed == ["yes", 7], what="it ran")
    reasons = sorted(record.reason for record in found)
    print(json.dumps([reasons, outcome.moved == [mine.id], len(res.quarantine.list())]))
res.quarantine.close()
"""


def test_a_memory_brokers_messages_are_kept_and_replayed_under_their_id(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "elsewhere.py", redis_url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [["abandoned", "unknown_task"], True, 1]
