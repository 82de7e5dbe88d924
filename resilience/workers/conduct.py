"""What a worker does to itself when a recovery asks for it: degrade, connect anew, leave the rotation, be replaced.

Recoveries are found in the ledger by the pulse. It carries out those of its own worker, ends those that a dead worker
left half done, and lets a worker that was degraded or taken out work as usual when it has been well for a while.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from resilience.recovery.decide import WorkerAction
from resilience.recovery.orchestrator import DIED
from resilience.shared_redis import STORE_ERRORS
from resilience.workers.health import own_queue
from resilience.workers.registry import Registry, WorkerInfo
from signals.events import WorkerRecovered
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core
    from resilience.delivery.broker import Broker
    from resilience.delivery.held import Held
    from resilience.recovery.ledger import Recovery
    from resilience.workers.rotation import Rotation

LOOK_S = 1.0
"""How often a worker looks into the ledger; while it carries something out, with every beat."""
AWAY_S = 5.0
"""How long it does not look while Redis is away."""
HEALTHY_LOOKS = 10
"""A worker that was degraded, or taken out, works as usual after so many looks at which nothing was wrong."""
GRACE_S = 5.0
"""So long past its budget a recovery is still its owner's to end."""
BY = "recovery"
"""Whose reason it is in the rotation."""

_LEAVES = (WorkerAction.REMOVE.value, WorkerAction.REPLACE.value)

logger = logging.getLogger("celeriac")


@dataclass(frozen=True)
class _UnderWay:
    """What this worker is doing to itself, and since when (monotonic); `is_done` says when it is."""

    recovery: Recovery
    began: float
    is_done: Callable[[], bool]


class Conduct:
    """One per worker, in its main process. All but `connected` and `follow` belong to the pulse's thread."""

    def __init__(self, core: Core, owner: str, hostname: str, rotation: Rotation, held: Held | None) -> None:
        self._core = core
        self._owner = owner
        self._own_queue = own_queue(core.settings.namespace, hostname)
        self._rotation = rotation
        self._held = held
        self._consumer: Any = None
        self._connections = 0
        self._looked_at = 0.0
        self._going: _UnderWay | None = None
        self._suffers: Recovery | None = None
        self._since = 0.0
        self._well = 0
        self._said = ""
        self._taken_off = 0
        rotation.on_look.append(self.follow)

    @property
    def _degraded(self) -> str:
        """Why this worker takes less than it could."""
        return "" if self._suffers is None else self._suffers.why or self._suffers.category

    # -- in the consumer's loop --------------------------------------------------------------------------------

    def connected(self, consumer: Any) -> None:
        """A new connection, with its window as it was configured."""
        self._consumer, self._taken_off = consumer, 0
        self._connections += 1
        self.follow()

    def follow(self) -> None:
        """A degraded worker's window is as large as its pool."""
        qos = getattr(self._consumer, "qos", None)
        if qos is None:
            return
        slots = getattr(self._consumer.pool, "limit", None) or 1
        if self._suffers is not None and not self._taken_off and qos.value > slots:
            self._taken_off = qos.value - slots
            qos.decrement_eventually(self._taken_off)
        elif self._suffers is None and self._taken_off:
            qos.increment_eventually(self._taken_off)
            self._taken_off = 0

    # -- every beat --------------------------------------------------------------------------------------------

    def tend(self, broker: Broker) -> None:
        """Look, act, and say how it stands. Raises the broker's errors; the store's are nobody's trouble here."""
        registry = Registry(broker, self._core.settings.namespace)
        if self._degraded or self._said:
            registry.describe_self(self._owner, {"degraded": self._degraded})
            self._said = self._degraded
        try:
            passed_s = time.monotonic() - self._looked_at
            if passed_s >= LOOK_S or (self._going is not None and passed_s >= 0):
                self._go_on()
                self._looked_at = time.monotonic()
                self._look(registry)
        except STORE_ERRORS as error:
            self._looked_at = time.monotonic() + AWAY_S - LOOK_S  # each look waits, and the beat with it
            logger.debug("celeriac: recoveries are not looked at: %s", describe(error))

    def _look(self, registry: Registry) -> None:
        ledger = self._core.recoveries.ledger
        found = ledger.serve(self._owner, self._queues())
        active = ledger.active(found) if found else []
        mine = [recovery for recovery in active if recovery.worker == self._owner and not recovery.by]
        others = [recovery for recovery in active if _carrier(recovery) != self._owner or _is_overdue(recovery)]
        for recovery in mine:
            if self._going is None and not _waits_for(recovery, active):
                self._begin(recovery, registry)
        if others:
            self._end_for_others(others, registry)
        if self._suffers is not None:
            self._see_if_well(registry)

    def _queues(self) -> list[str]:
        if self._rotation.why:
            return []
        queues = self._core.app.amqp.queues.consume_from
        return [queue for queue in list(queues) if queue != self._own_queue]

    # -- its own -----------------------------------------------------------------------------------------------

    def _begin(self, recovery: Recovery, registry: Registry) -> None:
        recoveries = self._core.recoveries
        if not recoveries.ledger.take(recovery, self._owner, "begun"):
            return
        if _waits_for(recovery, recoveries.ledger.active()):  # two began at once: none of them saw the other before
            recoveries.ledger.take(replace(recovery, by=self._owner), "", "asked for")
            return
        trouble = self._refusal(recovery, registry)
        if trouble:
            recoveries.end(recovery, self._owner, trouble)
            return
        self._going = _UnderWay(recovery, time.monotonic(), self._started(recovery))

    def _refusal(self, recovery: Recovery, registry: Registry) -> str:
        """Why it cannot be done here; "" if it can."""
        if recovery.strategy == WorkerAction.RECONNECT.value and self._held is None:
            return "its transport is not ours, so it cannot be told to connect anew"
        if recovery.strategy in _LEAVES:
            kept = recovery.strategy == WorkerAction.REPLACE.value and self._core.settings.worker_restarts
            alone = [queue for queue in self._queues() if not _served(queue, registry.live(), self._owner)]
            if alone and not kept:
                return f"no other worker serves {alone[0]}"
        return ""

    def _started(self, recovery: Recovery) -> Callable[[], bool]:
        """Start what is asked for; returns who says when it is done."""
        match recovery.strategy:
            case WorkerAction.RECONNECT.value:
                assert self._held is not None
                self._held.reconnect_because(f"a recovery asks for it: {recovery.why}")
                before = self._connections
                return lambda: self._connections > before
            case WorkerAction.DEGRADE.value:
                self._remember(recovery)
                return lambda: True
            case WorkerAction.REMOVE.value | WorkerAction.REPLACE.value:
                self._rotation.leave_rotation(f"a recovery asks for it: {recovery.why}", by=BY)
                self._remember(recovery)
                held = self._held
                return lambda: held is None or held.out
            case _:
                return lambda: False  # of a newer release: it runs out of time

    def _remember(self, recovery: Recovery) -> None:
        if self._suffers is None:
            self._since = time.monotonic()
        self._suffers, self._well = recovery, 0

    def _go_on(self) -> None:
        going = self._going
        if going is None:
            return
        recovery, recoveries = going.recovery, self._core.recoveries
        passed_s = time.monotonic() - going.began
        took_s = recovery.now - recovery.since + passed_s
        if going.is_done():
            # Its record says by now that it is out of rotation: whoever is next sees that it serves nothing. It leaves
            # also where the answer was lost, or others gave it up meanwhile: nothing would bring it back.
            recoveries.end(recovery, self._owner, took_s=took_s)
            self._going = None
            if recovery.strategy == WorkerAction.REPLACE.value:
                os.kill(os.getpid(), signal.SIGTERM)  # Celery's own warm shutdown
        elif recovery.now + passed_s > recovery.deadline:
            budget_s = recovery.deadline - recovery.since
            recoveries.end(recovery, self._owner, f"not done within {budget_s:g} s", took_s)
            self._going = None
            if recovery.strategy in _LEAVES:
                self._suffers = None
                self._rotation.return_to_rotation(by=BY)

    def _see_if_well(self, registry: Registry) -> None:
        assert self._suffers is not None
        suffers, ledger = self._suffers, self._core.recoveries.ledger
        queues = [queue for queue in list(self._core.app.amqp.queues.consume_from) if queue != self._own_queue]
        ill = ledger.suffers(self._owner, suffers.circuit, suffers.category, queues, 2 * LOOK_S)
        self._well = 0 if ill or registry.missed_checks(self._owner) else self._well + 1
        if self._well >= HEALTHY_LOOKS and suffers.strategy != WorkerAction.REPLACE.value:
            self._suffers = None
            self._rotation.return_to_rotation(by=BY)
            self._core.bus.publish(WorkerRecovered(self._owner, time.monotonic() - self._since))

    # -- what others left --------------------------------------------------------------------------------------

    def _end_for_others(self, found: list[Recovery], registry: Registry) -> None:
        settings, recoveries = self._core.settings, self._core.recoveries
        alive = registry.alive({_carrier(recovery) for recovery in found}, settings.gone_s, settings.silent_s)
        for recovery in found:
            if _carrier(recovery) not in alive:
                recoveries.give_up_for(recovery, self._owner, DIED)
            elif _is_overdue(recovery):
                recoveries.give_up_for(recovery, self._owner, "nobody ended it in time")


def _carrier(recovery: Recovery) -> str:
    """The worker whose business it is: who carries it out, else who was asked to."""
    return (recovery.by or recovery.worker).partition("/")[0]


def _is_overdue(recovery: Recovery) -> bool:
    return recovery.now > recovery.deadline + GRACE_S


def _waits_for(recovery: Recovery, active: list[Recovery]) -> bool:
    """Workers leave one after the other, or the last two would each take the other for the one that stays."""
    return recovery.strategy in _LEAVES and any(
        other.strategy in _LEAVES and other.by and other.id != recovery.id for other in active
    )


def _served(queue: str, fleet: list[WorkerInfo], but: str) -> bool:
    return any(queue in each.queues and each.owner != but and not each.out_of_rotation for each in fleet)
