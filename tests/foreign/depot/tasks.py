"""A project whose tasks have deadlines and whose upstream can storm."""

import os

import redis
from celery import Celery
from celery.signals import task_failure

from resilience import Resilience, TransientError

REDIS = os.environ["DEPOT_REDIS"]
app = Celery("depot", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)
app.conf.update(
    worker_prefetch_multiplier=32,
    resilience_circuits={"stays-closed": {"consecutive_failures": 10_000, "minimum_calls": 1_000_000}},
)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


@app.task(bind=True, circuit="stays-closed", deadline_s=2.0)
def deliver(self, parcel):
    """Never succeeds: the road is closed. It would be tried again after 1, 2, 4, 8 and 16 seconds."""
    book.rpush("tried", parcel)
    raise ConnectionRefusedError("the road is closed")


@app.task(circuit="stays-closed", deadline_s=1.0)
def collect(parcel):
    book.rpush("collected", parcel)
    return parcel


@app.task(circuit="stays-closed")
def ask(number):
    """Each call is one call of the upstream, which answers nonsense: tried again at once, after 0.1 and 0.2 s."""
    book.incr("calls")
    raise TransientError(f"malformed answer to {number}")


@task_failure.connect
def note_the_end(**_):
    book.incr("ended")
