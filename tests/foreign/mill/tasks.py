"""Somebody's project whose work is killed at random: each run of a task writes its begin and its end down at once."""

import json
import os
import signal
import time

import redis
from celery import Celery
from celery.signals import before_task_publish

from resilience import Resilience

REDIS = os.environ["MILL_REDIS"]
MAIN = os.getpid()  # pool children are forked from the process that reads this line
app = Celery("mill", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)
app.conf.update(
    worker_prefetch_multiplier=int(os.environ.get("MILL_PREFETCH", "4")),
    result_expires=600,
    task_publish_retry_policy={"max_retries": 3},
)
book = redis.Redis.from_url(os.environ["MILL_BOOK"])


def write(event, number, attempt):
    book.rpush("book", json.dumps([event, number, attempt, os.getpid(), MAIN, time.time()]))


@app.task(bind=True, circuit=False, max_retries=50)
def grind(self, number, busy_s):
    """Work for so long."""
    write("begin", number, self.request.retries)
    if busy_s:
        time.sleep(busy_s)
    write("end", number, self.request.retries)
    return number


@app.task(bind=True, circuit=False, max_retries=50)
def gather(self, _numbers, number, busy_s):
    """What comes after others: a chain's next task, a chord's body."""
    write("begin", number, self.request.retries)
    if busy_s:
        time.sleep(busy_s)
    write("end", number, self.request.retries)
    return number


@before_task_publish.connect
def die(sender=None, **_):
    """A kill between the claim on a chord's body and its publishing, once."""
    if os.environ.get("MILL_DIES_BEFORE") == sender and book.incr("died") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
