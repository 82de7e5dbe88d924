"""A project that runs the same with the middleware and, with WORKS_STOCK set, without it: what differs is a defect.

The book says what ran: `ran:<key>` and `began:<key>` are lists; a task that holds waits for `go:<key>`.
"""

import json
import os
import time

import redis
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, chain, group
from celery.exceptions import Ignore, Reject
from kombu import Exchange, Queue
from kombu.common import Broadcast

app = Celery("works", broker=os.environ["WORKS_BROKER"], backend=os.environ["WORKS_RESULTS"])
if not os.environ.get("WORKS_STOCK"):
    from resilience import Resilience

    Resilience(app)

topics, routes = Exchange("topics", type="topic"), Exchange("routes", type="direct")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_pool_restarts=True,
    result_extended=True,
    task_queues=[
        Queue("celery"),
        Queue("second", routing_key="second"),
        Queue("wide", bindings=[topics.binding("news.#"), topics.binding("*.late")]),
        Queue("narrow", topics, routing_key="news.sport"),
        Queue("red", bindings=[routes.binding("red"), routes.binding("crimson")]),
        Broadcast("everyone"),
    ],
)
app.conf.update(json.loads(os.environ.get("WORKS_CONF", "{}")))
book = redis.Redis.from_url(os.environ["WORKS_BOOK"], decode_responses=True)


def wait_for(key):
    book.rpush(f"began:{key}", key)
    while not book.exists(f"go:{key}"):
        time.sleep(0.02)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fail(text):
    raise ValueError(text)


@app.task
def note(key, *what):
    """Write down that it ran, in order."""
    book.rpush(f"ran:{key}", json.dumps(what))
    return what


@app.task
def note_result(result, key):
    book.rpush(f"ran:{key}", result)


@app.task(bind=True)
def note_route(self, key):
    book.rpush(f"ran:{key}", self.request.delivery_info["routing_key"])


@app.task
def note_error(request, error, trace, key="errors"):
    """An errback of the new kind."""
    book.rpush(f"ran:{key}", f"{type(error).__name__}: {error}")


@app.task
def hold(key, number=0):
    """Run until the book says go."""
    book.rpush(f"numbers:{key}", number)
    book.rpush(f"pids:{key}", os.getpid())
    wait_for(key)
    book.rpush(f"ran:{key}", number)
    return number


@app.task(acks_late=False)
def hold_acked(key):
    wait_for(key)
    book.rpush(f"ran:{key}", key)


@app.task(bind=True)
def stamped(self, key):
    book.rpush(f"ran:{key}", json.dumps(self.request.stamps, sort_keys=True))
    return self.request.stamps


@app.task(bind=True, max_retries=3)
def retries(self, times):
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True)
def rejects(self, key, requeue):
    runs = book.incr(f"runs:{key}")
    if runs < 3:
        raise Reject("not now", requeue=requeue)
    return runs


@app.task
def ignores(key):
    book.rpush(f"ran:{key}", key)
    raise Ignore


@app.task(bind=True)
def replaced(self, x):
    raise self.replace(chain(add.s(x, 1), add.s(10)))


@app.task(bind=True)
def replaced_by_group(self, x):
    raise self.replace(group(add.s(x, 1), add.s(x, 2)))


@app.task(bind=True, acks_on_failure_or_timeout=False)
def fails_unacknowledged(self, key):
    book.rpush(f"ran:{key}", str((self.request.delivery_info or {}).get("redelivered")))
    raise ValueError("not acknowledged")


@app.task(soft_time_limit=0.5)
def softly_limited(key):
    try:
        wait_for(key)
    except SoftTimeLimitExceeded:
        return "cleaned up"


@app.task(time_limit=0.7, soft_time_limit=None)
def strictly_limited(key):
    wait_for(key)


@app.task
def kills_its_child(key):
    """Once; its second run ends well."""
    runs = book.incr(f"runs:{key}")
    if runs == 1:
        os.kill(os.getpid(), 9)
    return runs


@app.task(acks_late=False)
def kills_its_child_acked(key):
    book.incr(f"runs:{key}")
    wait_for(key)
    os.kill(os.getpid(), 9)


@app.task(rate_limit="1/h")
def rare(key):
    book.rpush(f"ran:{key}", key)


@app.task
def who():
    return os.getpid()
