"""Somebody's project with one task for each way in which an attempt can end; a task's circuit bears its name."""

import json
import os
import signal
import sys
import threading
import time

import redis
from billiard.exceptions import WorkerLostError
from celery import Celery, Task, chord
from celery.exceptions import Ignore, Reject

from resilience import PermanentError, Resilience, TransientError

REDIS = os.environ["FEEDING_REDIS"]
POOL = os.environ["FEEDING_POOL"]
app = Celery("feeding", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
app.conf.update(
    resilience_namespace=POOL,
    resilience_breaker={"consecutive_failures": 10_000, "minimum_calls": 1_000_000},
    worker_prefetch_multiplier=4,
    task_default_queue=POOL,
    task_always_eager=POOL.startswith("eager"),
    task_eager_propagates=POOL == "eager_raising",
)
resilience = Resilience(app)
book = redis.Redis.from_url(f"{REDIS}/2", decode_responses=True)

PAUSE_S = float(os.environ.get("FEEDING_PAUSE_S", "0.02"))


@resilience.runner.listen
def note(attempt):
    book.rpush(
        f"{POOL}:{attempt.task.removeprefix('tasks.')}",
        json.dumps([attempt.task_id, attempt.attempt, attempt.result.value, repr(attempt.error), attempt.runtime_s]),
    )


def task(**options):
    """A task on the circuit of its own name that pauses first, so that its runtime can be judged."""

    def decorate(function):
        return app.task(circuit=function.__name__, bind=True, **{"max_retries": 0, **options})(function)

    return decorate


def unsteady(self, error):
    if not self.request.retries:
        raise error


def first(self):
    return book.incr(f"{POOL}:runs:{self.request.id}") == 1


class Timeless(Task):
    """Hooks of somebody who never calls super."""

    def before_start(self, task_id, args, kwargs):
        book.incr(f"{POOL}:before")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        book.incr(f"{POOL}:failed")

    def on_success(self, retval, task_id, args, kwargs):
        pass

    def after_return(self, *args):
        pass


class Unprepared(Task):
    def before_start(self, task_id, args, kwargs):
        time.sleep(PAUSE_S)
        raise ConnectionError("nobody there before the start")


class StatusError(Exception):
    """As the exceptions of httpx and the SDKs of LLM vendors are: it cannot be pickled, and its text says nothing."""

    def __init__(self, *, status_code):
        super().__init__("the answer was not as hoped")
        self.status_code = status_code


class Clumsy(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        raise KeyError("the hook fails too")


@task()
def success(self):
    time.sleep(PAUSE_S)


@task()
def connection_error(self):
    time.sleep(PAUSE_S)
    raise ConnectionError("nobody there")


@task()
def transient_error(self):
    time.sleep(PAUSE_S)
    raise TransientError("later, perhaps")


@task()
def permanent_error(self):
    time.sleep(PAUSE_S)
    raise PermanentError("never")


@task()
def python_error(self):
    time.sleep(PAUSE_S)
    raise KeyError("no such thing")


@task()
def status_error(self):
    time.sleep(PAUSE_S)
    raise StatusError(status_code=503)


@task()
def lost_elsewhere(self):
    time.sleep(PAUSE_S)
    raise WorkerLostError("said the result of another task")


@task(base=Timeless)
def hooks_without_super(self):
    time.sleep(PAUSE_S)
    raise ConnectionError("nobody there")


@task(base=Timeless)
def hooks_and_success(self):
    time.sleep(PAUSE_S)


@task(base=Unprepared)
def before_start_fails(self):
    raise AssertionError("never reached")


@task(base=Clumsy)
def failing_hook(self):
    time.sleep(PAUSE_S)
    raise ConnectionError("nobody there")


@task()
def unserializable(self):
    time.sleep(PAUSE_S)
    return threading.Lock()


@task(max_retries=None)
def retry_with_exception(self):
    time.sleep(PAUSE_S)
    if not self.request.retries:
        raise self.retry(exc=ConnectionError("nobody there"), countdown=0)


@task(max_retries=None)
def retry_in_except(self):
    time.sleep(PAUSE_S)
    try:
        unsteady(self, ConnectionError("nobody there"))
    except ConnectionError:
        raise self.retry(countdown=0)  # noqa: B904  as users write it; Celery finds the exception by itself


@task(max_retries=None)
def retry_with_status_error(self):
    time.sleep(PAUSE_S)
    try:
        unsteady(self, StatusError(status_code=503))
    except StatusError as error:
        raise self.retry(exc=error, countdown=0) from error


@task(max_retries=None)
def poll(self):
    time.sleep(PAUSE_S)
    if self.request.retries < 2:
        raise self.retry(countdown=0)


@task(max_retries=1)
def polls_in_vain(self):
    time.sleep(PAUSE_S)
    raise self.retry(countdown=0)


@task(max_retries=3, autoretry_for=(ConnectionError,), default_retry_delay=0)
def autoretry(self):
    time.sleep(PAUSE_S)
    if self.request.retries < 2:
        raise ConnectionError("nobody there")


@task(max_retries=2)
def matrix_retry(self):
    time.sleep(PAUSE_S)
    unsteady(self, TransientError("malformed answer"))


@task(soft_time_limit=0.5)
def soft_limit(self):
    time.sleep(30)


@task(time_limit=0.5)
def hard_limit(self):
    time.sleep(30)


@task(retry_on_worker_lost=False, reject_on_worker_lost=False)
def child_killed(self):
    time.sleep(PAUSE_S)
    os.kill(os.getpid(), signal.SIGKILL)


@task(retry_on_worker_lost=False, reject_on_worker_lost=True)
def child_killed_requeued(self):
    time.sleep(PAUSE_S)
    if first(self):
        os.kill(os.getpid(), signal.SIGKILL)


@task(max_retries=2)
def child_killed_retried(self):
    time.sleep(PAUSE_S)
    if first(self):
        os.kill(os.getpid(), signal.SIGKILL)


@task(retry_on_worker_lost=False, reject_on_worker_lost=False)
def sys_exit(self):
    time.sleep(PAUSE_S)
    sys.exit(3)


@task()
def ignored(self):
    time.sleep(PAUSE_S)
    raise Ignore


@task()
def rejected(self):
    time.sleep(PAUSE_S)
    raise Reject("no", requeue=False)


@task()
def rejected_once(self):
    time.sleep(PAUSE_S)
    if first(self):
        raise Reject("not yet", requeue=True)


def hold(self):
    time.sleep(PAUSE_S)
    book.set(f"{POOL}:began:{self.request.id}", "1")
    while not book.exists(f"{POOL}:go"):
        time.sleep(0.02)


@task()
def held(self):
    hold(self)


@app.task(circuit="held", max_retries=0)
def fails_like_held():
    raise ConnectionError("nobody there")


@task(acks_late=False)
def held_but_acknowledged(self):
    hold(self)


@task()
def terminated(self):
    hold(self)


@task()
def terminated_hard(self):
    hold(self)


@task()
def revoked(self):
    raise AssertionError("never reached")


@task()
def expired(self):
    raise AssertionError("never reached")


@task()
def calls_another(self):
    time.sleep(PAUSE_S)
    called()


@task()
def called(self):
    time.sleep(PAUSE_S)


@task()
def applies_another(self):
    time.sleep(PAUSE_S)
    applied.apply()
    applied_fails.apply()


@task()
def applied(self):
    time.sleep(PAUSE_S)


@task()
def applied_fails(self):
    time.sleep(PAUSE_S)
    raise ConnectionError("nobody there")


@task()
def applies_itself(self, depth=2):
    time.sleep(PAUSE_S)
    if depth:
        self.apply((depth - 1,))


@task()
def starts_chord(self):
    time.sleep(PAUSE_S)
    chord([part.s(), part.s()])(whole.s())


@task()
def part(self):
    time.sleep(PAUSE_S)


@task()
def whole(self, parts):
    time.sleep(PAUSE_S)


@task()
def starts_chord_in_vain(self):
    time.sleep(PAUSE_S)
    chord([ignored_part.s()])(whole_in_vain.s())


@task()
def ignored_part(self):
    time.sleep(PAUSE_S)
    raise Ignore


@task()
def whole_in_vain(self, parts):
    time.sleep(PAUSE_S)


@task()
def permits_held(self):
    """How many permits this process has not settled, this attempt's own included."""
    return len(resilience.runner._permits)
