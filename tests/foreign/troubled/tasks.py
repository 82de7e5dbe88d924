"""A project whose broker is in trouble; what its tasks did is written into another Redis, which is not."""

import json
import os
import time

import redis
from celery import Celery

from resilience import Resilience

app = Celery("troubled", broker=os.environ["TROUBLED_BROKER"])
Resilience(app)
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, **json.loads(os.environ["TROUBLED_CONF"]))
book = redis.Redis.from_url(os.environ["TROUBLED_BOOK"], decode_responses=True)


@app.task(bind=True, circuit=False)
def work(self, number, for_s=0.0):
    """The book says where and when it began and ended."""
    note = [number, self.request.id, self.request.hostname.partition("@")[0]]
    book.rpush("book", json.dumps(["began", *note, time.time()]))
    time.sleep(for_s)
    book.rpush("book", json.dumps(["ended", *note, time.time()]))


@app.task(bind=True, circuit="upstream", fallback=["other"])
def guarded(self, number, failures=0):
    """The same behind a circuit, which its failures feed."""
    note = [number, self.request.id, self.request.hostname.partition("@")[0]]
    book.rpush("book", json.dumps(["began", *note, time.time()]))
    if self.request.retries < failures:
        raise ConnectionResetError("connection reset by peer")
    book.rpush("book", json.dumps(["ended", *note, time.time()]))
