"""Somebody else's project: its own `tasks.py`, made resilient with two lines."""

import os
import time

import httpx
import redis
from billiard.process import current_process
from celery import Celery, Task

from resilience import Resilience, fallback_task

REDIS = os.environ["SHOP_REDIS"]
app = Celery("shop", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
Resilience(app)

app.conf.update(
    worker_prefetch_multiplier=2,
    resilience_circuits={
        "payments": {"open_s": 1.0, "open_max_s": 1.0, "ramp_s": 0.5},
        "prices": {"open_s": 1.0, "open_max_s": 1.0, "success_threshold": 1, "ramp_s": 0},
        "slow-to-open": {"consecutive_failures": 1000, "minimum_calls": 1000},
    },
)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)


class Audited(Task):
    """A base class of the project's own."""

    def on_success(self, retval, task_id, args, kwargs):
        book.rpush("audited", task_id)


@app.task(bind=True, circuit="payments", fallback=["fallback"])
def charge(self, order_id):
    """Ask the payment service; on the fallback queue, note the order for later."""
    if self.request.delivery_info["routing_key"] == "fallback":
        return {"order": order_id, "by": "fallback"}
    body = {"model": "m", "messages": [{"role": "user", "content": f"order {order_id}"}]}
    httpx.post(f"{os.environ['SHOP_API']}/chat/completions", json=body, timeout=1.0).raise_for_status()
    return {"order": order_id, "by": "payments"}


@app.task(circuit="payments", base=Audited)
def refund(order_id):
    return f"refund {order_id}"


def offer(task, item):
    """An answer that says who gave it, and what of the message came through."""
    told = task.request.headers or {}
    book.rpush("offered", item)
    return {
        "item": item,
        "by": task.name,
        "on": task.request.delivery_info["routing_key"],
        "tenant": told.get("tenant"),
    }


@app.task(
    bind=True,
    circuit="prices",
    max_retries=0,
    fallback=[
        fallback_task(os.environ.get("SHOP_STAND_IN", "tasks.list_price")),
        fallback_task("tasks.paper_price", queue="paper"),
    ],
)
def price(self, item):
    """The price of today, by the price service."""
    if book.exists("no prices today"):
        raise ConnectionResetError("connection reset by peer")
    return offer(self, item)


@app.task(bind=True, circuit=False, fallback=["nowhere"])
def list_price(self, item):
    """The price of the catalogue.

    With "come again" in the book it has the price service work again, and retries; with "die" it kills its worker.
    """
    if book.lpop("die"):
        os.kill(os.getppid(), 9)
        os._exit(1)
    if book.lpop("come again"):
        book.delete("no prices today")
        raise self.retry(countdown=0)
    return offer(self, item)


@app.task(bind=True, circuit="paper", fallback=["nowhere"])
def paper_price(self, item):
    """A price of last year."""
    return offer(self, item)


@app.task(bind=True, circuit="prices", fallback=["paper"], on_open="park")
def patient_price(self, item):
    return offer(self, item)


@app.task(bind=True, circuit="prices", fallback=["paper"], on_open="fail")
def instant_price(self, item):
    return offer(self, item)


@app.task
def count(answers):
    return sorted(answer["by"] for answer in answers)


@app.task
def mourn(request, error, traceback):
    book.rpush("mourned", request.id)


@app.task
def hold(number):
    """Run until the test says go; the book says who ran when."""
    book.rpush("began", number)
    while not book.exists("go"):
        time.sleep(0.02)
    book.rpush("ran", number)
    return number


@app.task(circuit="slow-to-open")
def poison():
    """Kill the process that runs it."""
    book.rpush("poisoned", os.getpid())
    os.kill(os.getpid(), 9)


@app.task(circuit="slow-to-open")
def massacre():
    """Kill the whole worker, whatever its pool: the main process, from which a pool process would not recover."""
    book.rpush("killed", os.getpid())
    in_child = current_process().name.startswith("ForkPool")
    os.kill(os.getppid() if in_child else os.getpid(), 9)
    os._exit(1)


@app.task(bind=True, circuit="slow-to-open")
def flaky(self, failures):
    """Fail `failures` times with a lost connection, then answer with the number of the attempt."""
    if self.request.retries < failures:
        raise ConnectionResetError("connection reset by peer")
    return self.request.retries + 1


@app.task
def total(numbers):
    return sum(len(n) for n in numbers)


@app.task(circuit=False)
def note(number):
    """The book says that it ran."""
    book.rpush("ran", number)


@app.task(circuit=False)
def relay(number):
    """Send another task from where it runs."""
    note.delay(number)


if os.environ.get("SHOP_DEAF"):  # a planted fault: the first connection of a worker never asks for a message
    from resilience.delivery.channel import OwnedTurns

    hears, first = OwnedTurns._room, []

    def deaf_at_first(self):
        first.append(self)
        return 0 if self is first[0] else hears(self)

    OwnedTurns._room = deaf_at_first


@app.task(bind=True, circuit=False)
def second_thoughts(self):
    """Ask for a retry at once, as users write it, then answer."""
    if not self.request.retries:
        raise self.retry(countdown=0, exc=ConnectionResetError("connection reset by peer"))
    return "on second thoughts"


if os.environ.get("SHOP_TWO_STEPS"):  # a planted fault: the gate publishes, and is killed before it acknowledges
    from resilience import gate

    publish, published = gate.Gate._publish, []

    def publish_and_die(self, message, queue, headers):
        publish(self, message, queue, headers)
        published.append(queue)
        if len(published) == 10:
            os.kill(os.getpid(), 9)

    gate.sent_on = lambda message, queue, headers: False
    gate.Gate._publish = publish_and_die
