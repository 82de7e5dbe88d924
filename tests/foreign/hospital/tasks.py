"""Somebody's tasks that fail in every way; the book says what ran."""

import os
import time

import redis
from celery import Celery
from celery.exceptions import Reject

from resilience import PermanentError, Resilience

REDIS = os.environ["SHOP_REDIS"]
app = Celery("hospital", broker=os.environ.get("HOSPITAL_BROKER", f"{REDIS}/0"), backend=f"{REDIS}/1")
res = Resilience(app)
app.conf.update(
    worker_prefetch_multiplier=2,
    broker_connection_retry=True,
    resilience_breaker={"consecutive_failures": 1000, "minimum_calls": 1000},
    resilience_matrix={"connection_error": {"max_retries": 1}},
)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


class Expected(Exception):  # noqa: N818  an answer, not an error
    pass


@app.task
def good(number):
    book.rpush("ran", number)
    return number


@app.task
def noted(number):
    """Takes anything."""
    book.rpush("ran", repr(number))


@app.task
def two(left, right=0, *, only=0):
    book.rpush("ran", f"two {left}")
    return left + right + only


@app.task
def inner_type_error(number):
    """A TypeError of its own body, such as a wrong call of its own."""
    return len(number)


@app.task
def bug():
    return {}["missing"]


@app.task
def gives_up():
    raise PermanentError("the account is closed, password=hunter2")


@app.task
def unreachable():
    raise ConnectionRefusedError("connection refused")


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def asks_itself(self):
    try:
        raise ValueError("not yet")  # noqa: TRY301  as users write it
    except ValueError as error:
        raise self.retry(exc=error) from error


@app.task(autoretry_for=(KeyError,), max_retries=1, retry_backoff=False, default_retry_delay=0)
def retried_by_celery():
    return {}["missing"]


@app.task(throws=(Expected,))
def expected():
    raise Expected


@app.task(bind=True)
def rejects(self):
    raise Reject("not mine", requeue=False)


@app.task(time_limit=1)
def endless():
    while True:
        time.sleep(0.05)


@app.task(acks_late=False)
def early_and_unreachable():
    raise PermanentError("closed")


@app.task(max_retries=1)
def deadly():
    os.kill(os.getpid(), 9)


@app.task
def total(numbers):
    return sum(numbers)
