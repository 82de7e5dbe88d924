"""Why an error of a category happens and what mends it, in words for a tired person. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from resilience.errors.taxonomy import ErrorCategory, Strategy

_C, _S = ErrorCategory, Strategy


@dataclass(frozen=True)
class Advice:
    """`why`: what usually is behind it. `fix`: what to look at or to do, in this order."""

    why: str
    fix: str


ADVICE: dict[ErrorCategory, Advice] = {
    _C.INITIALIZATION: Advice(
        "Something that the task needs could not be set up.",
        "Read the message for the part that did not start; check its settings, its credentials and that what it "
        "connects to is up, then restart the worker.",
    ),
    _C.CONNECTION: Advice(
        "No connection to the other side: it is down, unreachable, or this process is sent to the wrong place.",
        "Check that the service is up and that its address, port, DNS name and firewall are right as seen from the "
        "worker's host. When it is back, the circuit closes by itself.",
    ),
    _C.COMMUNICATION: Advice(
        "The conversation broke off or was not understood: a process died, a proxy cut in, or the answer was garbled.",
        "Look at the other side's log and at proxies between for this time. If a worker child was lost, look for the "
        "kernel's out-of-memory killer.",
    ),
    _C.TIMEOUT: Advice(
        "The answer did not come in time: the other side is slow or overloaded, or the limit is too short.",
        "Compare the other side's usual time to answer with the timeout of the call and the task's time limits; raise "
        "the limit only if slow answers are normal there.",
    ),
    _C.RESOURCE: Advice(
        "Memory, disk, file handles or connections have run out on this host or at the other side.",
        "Look at memory, disk space and open files of the host (free -m, df -h, ulimit -n) and free some; lower the "
        "worker's concurrency if it asks for more than there is.",
    ),
    _C.HEALTH_CHECK: Advice(
        "A worker did not answer its health check in time or answered that it is not well.",
        "See whether the worker is alive and what it is doing (celery -A <app> inspect active); restart it if it is "
        "stuck.",
    ),
    _C.SESSION: Advice(
        "The session's state was not where it was looked for: its worker is gone, or it expired or moved.",
        "Usually nothing: the session is bound anew at the next attempt. If it goes on, check that the workers that "
        "hold sessions stay up.",
    ),
    _C.PYTHON: Advice(
        "The task's own code raised this; the same input will most likely raise it again.",
        "Read the traceback, mend the code or the input and send the task again. If this error can in truth pass by "
        "itself, raise TransientError or add a rule for it.",
    ),
    _C.SYSTEM: Advice(
        "Python itself or the machine under it is in trouble.",
        "Look at the worker's log and the host's kernel log; restart the worker, and leave the host if it comes back.",
    ),
    _C.RATE_LIMIT: Advice(
        "The other side answers that it was asked too often.",
        "Nothing at once: it is asked again when the server allows it. If it goes on, lower the task's rate_limit or "
        "the number of workers, or ask the provider for a higher limit.",
    ),
    _C.SERVER: Advice(
        "The other side failed while it worked on the request.",
        "Look at the provider's status page or the service's own log for this time; nothing on this side mends it.",
    ),
    _C.AUTH: Advice(
        "The other side does not accept who asks: the key or password is wrong, expired or not allowed to do this, "
        "or its quota is used up.",
        "Check the key that the worker really has (its environment, not yours), its expiry, its rights and its "
        "balance; set the right one, restart the worker and send the task again.",
    ),
    _C.INVALID_REQUEST: Advice(
        "The request itself is refused; sending it again changes nothing.",
        "Compare the task's arguments with what the service accepts, mend them or the code that builds the request, "
        "and send the task again.",
    ),
    _C.NOT_FOUND: Advice(
        "What was asked for does not exist there.",
        "Check the id, the path or the model's name in the task's arguments, and that it was not deleted.",
    ),
}

NEXT: dict[Strategy, str] = {
    _S.CIRCUIT_BREAK: "retried a few times; it counts against its circuit, which opens when this goes on",
    _S.BACKOFF_RETRY: "retried, each time after a longer wait",
    _S.IMMEDIATE_RETRY: "retried almost at once",
    _S.FAILOVER: "handed to the next fallback level if the task has one, else given up",
    _S.ABANDON: "given up: no retry would help",
}
"""What the middleware does about it by itself."""
