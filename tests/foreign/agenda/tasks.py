"""A project whose tasks are due later: its book says when each ran."""

import json
import os
import time

import redis
from celery import Celery

from resilience import Resilience

REDIS = os.environ["AGENDA_REDIS"]
app = Celery("agenda", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)
app.conf.update(worker_prefetch_multiplier=2, timezone="America/New_York")
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


@app.task(circuit=False)
def note(number, due_s=None):
    """The book says that it ran, and how many seconds late."""
    late_s = time.time() - due_s if due_s is not None else 0.0
    book.rpush("ran", json.dumps([number, late_s]))
    return number


@app.task
def with_a_plan(number):
    """The same through the gate of a circuit."""
    return note(number)


@app.task(bind=True, circuit=False, max_retries=3)
def again(self, number, countdown):
    """Ask twice to come back later, then note."""
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    note(f"{number} after {self.request.retries} retries")


@app.task(circuit=False)
def add(left, right):
    note("added")
    return left + right
