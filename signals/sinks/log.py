"""Events as log lines, each telling what happened and, where it helps, what to type."""

from __future__ import annotations

import logging

from signals.events import (
    CircuitChanged,
    ClaimsTakenOver,
    Event,
    MessageQuarantined,
    ParkedReleased,
    PolicyConflict,
    QuarantineDiscarded,
    QuarantineDropped,
    QuarantineReplayed,
    RecoveryEnded,
    RecoveryStarted,
    RetryDecided,
    StoreAway,
    StoreBack,
    TaskAbandoned,
    TaskRerouted,
    WorkerBackInRotation,
    WorkerDied,
    WorkerOutOfRotation,
    WorkerRecovered,
    WorkerStalled,
    WorkerUnhealthy,
)
from signals.redact import redact

logger = logging.getLogger("celeriac")


def log_sink(event: Event) -> None:
    """Write `event` to the logger `celeriac` at the level it deserves."""
    level, text = _line(event)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", redact(text), extra={"celeriac_event": event.kind})


def _line(event: Event) -> tuple[int, str]:  # noqa: PLR0911, PLR0912  one line per event
    match event:
        case CircuitChanged(name=name, old=old, new=new, reason=reason, open_s=open_s):
            wait = f" for {open_s:.1f} s" if new == "open" or (open_s > 0 and new != "closed") else ""
            return logging.WARNING, f"circuit {name}: {old} -> {new}{wait} ({reason})"
        case PolicyConflict(name=name, difference=difference):
            return logging.WARNING, f"circuit {name} is used with two policies, the newer wins: {difference}"
        case StoreAway(error=error):
            return logging.ERROR, f"breaker store away ({error}): each process now counts for itself"
        case StoreBack(away_s=away_s):
            return logging.WARNING, f"breaker store back after {away_s:.1f} s: the shared state counts again"
        case TaskRerouted(task_id=task_id, task=task, origin=origin, destination=destination, reason=reason):
            return logging.INFO, f"task {task}[{task_id}] moved from {origin} to {destination} ({reason})"
        case RetryDecided():
            return _retried(event)
        case TaskAbandoned():
            return logging.ERROR, _abandoned(event)
        case WorkerDied(owner=owner, reclaimed=reclaimed, by=by):
            return (
                logging.WARNING,
                f"worker {owner} died: {reclaimed} messages back on their queues (by {by})",
            )
        case ClaimsTakenOver(owner=owner, late=late, dropped=dropped):
            return (
                logging.WARNING,
                f"worker {owner} was taken for dead: {late} of its tasks ran twice, {dropped} it did not begin",
            )
        case WorkerStalled(owner=owner, waiting=waiting, for_s=for_s):
            return (
                logging.ERROR,
                f"worker {owner} has free slots and received nothing for {for_s:g} s, {waiting} messages wait: "
                "it connects anew",
            )
        case WorkerOutOfRotation(owner=owner, why=why):
            return logging.ERROR, f"worker {owner} is out of rotation, it takes no tasks: {why}"
        case WorkerBackInRotation(owner=owner, away_s=away_s):
            return logging.WARNING, f"worker {owner} is back in rotation after {away_s:.1f} s"
        case WorkerUnhealthy(owner=owner, missed=missed):
            return logging.WARNING, f"worker {owner} missed {missed} health checks"
        case RecoveryStarted() | RecoveryEnded():
            return _of_a_recovery(event)
        case WorkerRecovered(owner=owner, after_s=after_s):
            return logging.WARNING, f"worker {owner} is well again after {after_s:.1f} s, it works as usual"
        case MessageQuarantined() | QuarantineDropped() | QuarantineReplayed() | QuarantineDiscarded():
            return _of_the_quarantine(event)
        case ParkedReleased(circuit=circuit, home=home, messages=messages, actor=actor, why=why):
            return logging.WARNING, f"{messages} parked tasks of circuit {circuit} went to {home} (by {actor}: {why})"
        case _:
            return logging.INFO, f"{event.kind} {event.fields()}"


def _retried(event: RetryDecided) -> tuple[int, str]:
    critical = event.severity == "critical"
    what = f"{event.category}, critical" if critical else event.category
    level = logging.WARNING if critical else logging.INFO
    return level, f"task {event.task}[{event.task_id}] attempt {event.attempt}: {what}, again in {event.delay_s:.2f} s"


def _abandoned(event: TaskAbandoned) -> str:
    why = f" ({event.reason})" if event.reason else ""
    first = f"task {event.task}[{event.task_id}] given up after attempt {event.attempt}{why}"
    return f"{first}: {event.category}: {event.error}" + (f"\n{event.report}" if event.report else "")


def _of_a_recovery(event: RecoveryStarted | RecoveryEnded) -> tuple[int, str]:
    what = f"recovery {event.strategy} of worker {event.worker}" if event.worker else f"recovery {event.strategy}"
    match event:
        case RecoveryStarted(why=why, budget_s=budget_s):
            return logging.WARNING, f"{what} began, for {budget_s:g} s at most ({why})"
        case RecoveryEnded(succeeded=True, took_s=took_s):
            return logging.WARNING, f"{what} succeeded after {took_s:.2f} s"
        case RecoveryEnded(took_s=took_s, trouble=trouble):
            return logging.ERROR, f"{what} failed after {took_s:.2f} s: {trouble}"


def _of_the_quarantine(
    event: MessageQuarantined | QuarantineDropped | QuarantineReplayed | QuarantineDiscarded,
) -> tuple[int, str]:
    name = f"task {event.task}" if event.task else "a message"
    message = f"{name}[{event.task_id}]" if event.task_id else name
    match event:
        case MessageQuarantined(id=number, reason=reason, detail=detail, queue=queue):
            where = f" of {queue}" if queue else ""
            why = f": {detail}" if detail else ""
            return logging.WARNING, f"{message}{where} is in quarantine as {number}: {reason}{why}"
        case QuarantineDropped(id=number, reason=reason, limit=limit):
            return logging.WARNING, f"{message} is dropped from the quarantine, it was {number} ({reason}): {limit}"
        case QuarantineReplayed(id=number, queue=queue, actor=actor, why=why):
            return logging.INFO, f"{message} went from the quarantine, {number}, to {queue} (by {actor}: {why})"
        case QuarantineDiscarded(id=number, reason=reason, actor=actor, why=why):
            return (
                logging.WARNING,
                f"{message} was discarded from the quarantine, {number} ({reason}), by {actor}: {why}",
            )
