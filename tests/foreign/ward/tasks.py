"""Somebody else's project whose tasks and workers need all kinds of recovery."""

import os
import time

import redis
from celery import Celery

from resilience import Resilience, circuit, current_patience

REDIS = os.environ["WARD_REDIS"]
app = Celery("ward", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
res = Resilience(app)
app.conf.update(
    worker_prefetch_multiplier=4,
    task_routes={"tasks.patient": {"queue": "forked"}},
    resilience_breaker={"consecutive_failures": 1000, "minimum_calls": 1000},
    resilience_matrix={"resource_error": {"severity": "minor"}},  # a minute to free them, for slow machines
    resilience_quarantine_abandoned="none",
    resilience_health_timeout_s=0.5,
)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)
cache = [0] * 1000  # what this process could let go of


if not os.environ.get("WARD_KEEPS_ALL"):

    @res.on_free_resources
    def let_go():
        if book.exists("slow to free"):
            book.incr("freeing")
            while book.exists("slow to free"):
                time.sleep(0.02)
        cache.clear()
        book.incr("freed")


@app.task(circuit="memory")
def hungry():
    """Needs the memory that the cache fills, unless the book says that there is room everywhere."""
    if cache and not book.exists("room"):
        raise MemoryError("no room left")
    return "fed"


@app.task(bind=True, circuit="bed", soft_time_limit=1, time_limit=20)
def patient(self):
    """Takes longer than it may at first; then says how much longer it may."""
    if current_patience() == 1.0:
        time.sleep(60)
    return [current_patience(), self.request.timelimit]


@app.task(bind=True, circuit="line", max_retries=0)
def call_out(self):
    """The line is dead on the workers in the book."""
    if book.sismember("dead lines", self.request.hostname):
        raise ConnectionResetError("connection reset by peer")
    book.incr(f"answered on {self.request.hostname}")


if os.environ.get("WARD_DEAF"):  # a planted fault: health checks reach it, and it answers none while the book says so
    from resilience.workers.health import HealthChecks

    answers = HealthChecks.answer_check

    def answers_unless_deaf(self, owner, broker=None):
        if not book.exists("deaf"):
            answers(self, owner, broker)

    HealthChecks.answer_check = answers_unless_deaf


@app.task(circuit="door")
def pass_gate():
    """Calls through a circuit that is not its own."""
    with circuit("gate"):
        return "through"
