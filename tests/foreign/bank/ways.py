"""Sends a transfer in every way that Celery knows, and prints for each on which queue it ran."""

import json
import sys
import uuid

from celery import chain, chord, group

from resilience import send_all
from tasks import app, collect, fail, note, transfer, twice


def linked(start, option):
    task_id = str(uuid.uuid4())
    start(**{option: transfer.si(0).set(task_id=task_id)})
    return app.AsyncResult(task_id)


WAYS = {
    "delay": lambda: transfer.delay(0),
    "apply_async": lambda: transfer.apply_async((0,), priority=3),
    "a named queue": lambda: transfer.apply_async((0,), queue="celery"),
    "a countdown": lambda: transfer.apply_async((0,), countdown=0.5),
    "send_task": lambda: app.send_task("tasks.transfer", (0,)),
    "a signature": lambda: transfer.si(0).apply_async(),
    "send_all": lambda: send_all([transfer.si(0)])[0],
    "the next of a chain": lambda: chain(note.si(), transfer.si(0)).apply_async(),
    "a group": lambda: group(transfer.si(0), transfer.si(0))().results[1],
    "the header of a chord": lambda: chord([transfer.si(0), transfer.si(0)])(collect.s()),
    "the body of a chord": lambda: chord([note.si(), note.si()])(transfer.si(0)),
    "a callback": lambda: linked(note.apply_async, "link"),
    "an errback": lambda: linked(fail.apply_async, "link_error"),
    "a retry of its own": lambda: twice.delay(by_itself=True),
    "a retry by the matrix": lambda: twice.delay(by_itself=False),
}

if __name__ == "__main__":
    sent = {way: send() for way, send in WAYS.items()}
    found = {way: result.get(timeout=20) for way, result in sent.items()}
    places = {way: {*where} if isinstance(where, list) else {where} for way, where in found.items()}
    sys.stdout.write(json.dumps({way: "|".join(sorted(where)) for way, where in places.items()}))
