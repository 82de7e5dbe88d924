"""Somebody else's project: transfers go through a service that has two stand-ins; the book says who did which."""

import json
import os

import httpx
import redis
from celery import Celery

from resilience import Resilience

REDIS = os.environ["BANK_REDIS"]
app = Celery("bank", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)

BRIEF = {"open_s": 1.0, "open_max_s": 1.0, "ramp_s": 0.5}
app.conf.update(
    worker_prefetch_multiplier=2,
    resilience_circuits={"ledger": BRIEF, "ledger@second": BRIEF, "ledger@third": BRIEF},
    beat_schedule={"sweep": {"task": "tasks.sweep", "schedule": 0.3}} if os.environ.get("BANK_BEAT") else {},
)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


def where(task):
    return task.request.delivery_info["routing_key"]


@app.task(bind=True, circuit="ledger", fallback=["second", "third"])
def transfer(self, number):
    """Ask the service of the level that this runs on; a level without one needs none."""
    url = os.environ.get(f"BANK_{where(self).upper()}")
    if url:
        body = {"model": "m", "messages": [{"role": "user", "content": f"transfer {number}"}]}
        httpx.post(f"{url}/chat/completions", json=body, timeout=1.0).raise_for_status()
    book.rpush("ran", json.dumps([number, where(self)]))
    return where(self)


@app.task(bind=True, circuit="ledger", fallback=["second", "third"])
def sweep(self):
    """What beat sends."""
    book.rpush("swept", where(self))


@app.task(bind=True, circuit="ledger", fallback=["second", "third"])
def twice(self, by_itself, turn=""):
    """Retry once; before that an operator opens or resets the circuit, if `turn` says so."""
    if not self.request.retries:
        breakers = app.resilience.breakers
        if turn == "open":
            breakers.force_open("ledger", actor="test", reason="turns against it")
        if turn == "reset":
            breakers.reset("ledger", actor="test", reason="turns back")
        if by_itself:
            raise self.retry(countdown=0.3)
        raise ConnectionResetError("connection reset by peer")
    return where(self)


@app.task(circuit=False)
def note(*_):
    return "noted"


@app.task(circuit=False)
def fail():
    raise ValueError("on purpose")


@app.task(circuit=False)
def collect(answers):
    return answers
