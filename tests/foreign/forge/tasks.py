"""Somebody's project whose workers depend on a resource of their own: a fire each, which may go out."""

import os
import threading
import time

import redis
from celery import Celery, chord
from celery.signals import worker_process_init, worker_ready

from resilience import NotReadyError, Resilience

REDIS = os.environ["FORGE_REDIS"]
NAME = os.environ.get("FORGE_NAME", "")
app = Celery("forge", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
res = Resilience(app)
app.conf.update(worker_prefetch_multiplier=int(os.environ.get("FORGE_PREFETCH", "4")))
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


def lit():
    """Whether this worker's fire burns. `hangs` in the book makes the question hang."""
    while book.exists(f"hangs:{NAME}"):
        time.sleep(0.05)
    return not book.exists(f"dark:{NAME}")


if os.environ.get("FORGE_CHECKS"):
    res.ready_check(lit, name="fire", every_s=float(os.environ["FORGE_CHECKS"]), timeout_s=0.5)


@app.task(bind=True, circuit=False if os.environ.get("FORGE_DENIES") else None)
def forge(self, number):
    """Fails without a fire; the book says who did it."""
    return _forged(self, number)


@app.task(bind=True, acks_late=False)
def forge_once(self, number):
    """The same, acknowledged before it runs."""
    return _forged(self, number)


@app.task(circuit=False)
def commission(first):
    """Ten pieces and their sum."""
    chord([forge.s(number) for number in range(first, first + 10)])(total.s())


@app.task(circuit=False)
def total(numbers):
    book.set("total", sum(numbers))


@app.task(circuit=False, rate_limit="60/m")
def rare(number):
    book.rpush(f"forged:{NAME}", number)


def _forged(self, number):
    if not lit():
        book.rpush(f"refused:{NAME}", number)
        if os.environ.get("FORGE_DENIES"):
            raise ConnectionError("the fire is out")
        raise NotReadyError("the fire is out")
    book.rpush(f"forged:{NAME}", number)
    book.rpush("retries", self.request.retries)
    return number


@app.task(circuit=False)
def never(number):
    """No fire is hot enough for it."""
    book.rpush("tried", number)
    raise NotReadyError("no fire is hot enough")


@app.task(circuit=False)
def hold(number):
    """Run until the test says go."""
    book.rpush("began", number)
    while not book.exists("go"):
        time.sleep(0.02)
    book.rpush(f"forged:{NAME}", number)


@worker_process_init.connect
def born(**_):
    """A pool process of a cursed worker dies at birth."""
    if book.exists(f"cursed:{NAME}"):
        time.sleep(0.2)  # else it takes the machine to start new ones
        os._exit(1)


def _obey():
    """An operator inside the worker: out of rotation while the book says why."""
    while True:
        why = book.get(f"out:{NAME}")
        if why:
            res.rotation.leave_rotation(why)
        else:
            res.rotation.return_to_rotation()
        time.sleep(0.02)


if os.environ.get("FORGE_OBEYS"):

    @worker_ready.connect
    def obey(**_):
        threading.Thread(target=_obey, daemon=True).start()
