"""A worker's life as the middleware lives it: checks at start, pulse and upkeep while it runs, a goodbye at the end."""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import redis
from celery import signals as celery_signals
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state as worker_state

from resilience import identity
from resilience.delivery.broker import BROKER_ERRORS, WORKER_LIMITS, Broker, is_redis
from resilience.delivery.claims import Claims
from resilience.delivery.ends import settle_at_once
from resilience.delivery.envelope import redelivered
from resilience.delivery.held import Held
from resilience.delivery.holders import hold_as
from resilience.delivery.starts import keep_what_is_written, watch, when_terminated
from resilience.delivery.unacked import FormerConnection, StockUnacked, transport_options
from resilience.exits import Exits
from resilience.plans import PlanError, unknown_substitutes
from resilience.poison import condemn
from resilience.recovery.failover import journey_of, level_in
from resilience.router import plain_queue
from resilience.settings import SettingsError
from resilience.workers.children import look_after_children, see_ends_at_once
from resilience.workers.commands import know_delayed
from resilience.workers.conduct import Conduct
from resilience.workers.health import own_queue
from resilience.workers.interrupted import let_interrupted_go_first
from resilience.workers.later import Later
from resilience.workers.pulse import Pulse, TellLost
from resilience.workers.registry import Registry
from resilience.workers.rotation import Rotation
from resilience.workers.running import RunningAttempt, packed
from resilience.workers.slots import is_free, running_requests, running_tags, stopping
from resilience.workers.threads import run_one_by_one
from resilience.workers.turning import STAMP_EVERY_S, LoopStamp
from resilience.workers.watchdog import Watchdog
from signals.events import ClaimsTakenOver
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.core import Core
    from resilience.workers.checkout import Checkout
    from resilience.workers.health import HealthChecks

LOOP_TURNS_WITHIN_S = 5.0

logger = logging.getLogger("celeriac")


class WorkerLife:
    """Hears Celery's worker signals; does nothing in a process that is no worker of this app.

    `tell_lost` hears of every attempt that another worker of the fleet was running when it died.
    """

    def __init__(
        self, core: Core, health: HealthChecks, exits: Exits, rotation: Rotation, checkout: Checkout,
        tell_lost: TellLost,
    ) -> None:  # fmt: skip
        self._core = core
        self._checkout = checkout
        self._exits = exits
        self._rotation = rotation
        self._said_out = ""
        self._conduct: Conduct | None = None
        self._health = health
        self._tell_lost = tell_lost
        self._is_worker = False
        self._is_solo = False
        self._pulse: Pulse | None = None
        self._former: FormerConnection | None = None
        self._held: Held | None = None
        self._later: Later | None = None
        self._stock = StockUnacked({})
        self._consumer: Any = None
        self._loop = LoopStamp()
        core.on_consumer.append(self._consumer_made)
        core.on_connected.append(self._connected)
        core.on_stopping.append(self._begins_nothing_more)
        celery_signals.celeryd_init.connect(self._begins, weak=False)
        celery_signals.celeryd_after_setup.connect(self._set_up, weak=False)
        celery_signals.worker_shutting_down.connect(self._stops, weak=False)
        celery_signals.worker_process_shutdown.connect(self._child_ends, weak=False)
        celery_signals.worker_shutdown.connect(self._ends, weak=False)

    def _begins(self, instance: Any = None, **_: Any) -> None:
        core = self._core
        if instance is None or instance.app is not core.app:
            return
        try:
            settings = core.settings
            _read_plans(core)
        except (SettingsError, PlanError) as error:
            sys.exit(f"celeriac: {error}")
        if not settings.enabled:
            return
        self._is_worker = True
        owner = identity.pin()
        self._rotation.begin(owner)
        if settings.recovery_enabled and is_redis(core.app.conf.broker_read_url):
            self._own_what_it_holds(owner)
            pulse = Pulse(
                owner, settings, core.bus, lambda: Broker(core.app), self._running, self._tell_lost,
                partial(condemn, core), self._held,
            )  # fmt: skip
            self._pulse = self._with_chores(pulse, instance.hostname)
            self._later = Later(settings.namespace, owner, settings.beat_s, pulse.alarm.ring)
            pulse.when_due = self._later.look
            self._rotation.on_change.append(pulse.beat_now)
            if self._held is not None:
                core.hands_over = self._later.takes
                self._held.put_off = self._later.puts_off
        logger.info("celeriac: on as %s", owner)

    def _own_what_it_holds(self, owner: str) -> None:
        conf = self._core.app.conf
        # An explicit visibility_timeout or unacked key is the user's word; then their messages are theirs too.
        namespace = self._core.settings.namespace
        self._stock = StockUnacked(conf.broker_transport_options or {})
        mine = {**WORKER_LIMITS, **transport_options(namespace, owner)}
        if self._core.settings.transport_enabled:
            self._held = Held(namespace, owner, running_tags)
            if self._exits.on:
                self._held.unreadable = self._exits.unreadable
            mine["celeriac_owner"] = hold_as(self._held)
        conf.broker_transport_options = {**mine, **(conf.broker_transport_options or {})}

    def _with_chores(self, pulse: Pulse, hostname: str) -> Pulse:
        core = self._core
        former = self._former = FormerConnection(core.settings.namespace, pulse.owner, running_tags)
        pulse.every_beat(lambda broker, _elapsed_s: former.look(broker))
        pulse.every_beat(self._stock.look)
        pulse.every_beat(lambda broker, _elapsed_s: self._tell_what_ended(broker))
        pulse.every_beat(lambda _broker, _elapsed_s: self._tell_of_late_ends())
        if core.settings.health_enabled:
            pulse.every_beat(lambda broker, _elapsed_s: self._health.tend(broker, hostname, self._loop_turns))
        pulse.every_beat(lambda broker, _elapsed_s: self._tell_rotation(broker))
        if core.circuits_on:
            conduct = self._conduct = Conduct(core, pulse.owner, hostname, self._rotation, self._held)
            pulse.every_beat(lambda broker, _elapsed_s: conduct.tend(broker))
        pulse.every_beat(self._follow_the_primary)
        pulse.every_beat(self._release_parked)
        if self._held is not None:
            watchdog = Watchdog(self._held, core.settings.stall_s, core.bus, lambda: is_free(self._consumer))
            pulse.every_beat(
                lambda broker, _elapsed_s: watchdog.look(broker, Registry(broker, core.settings.namespace))
            )
        pulse.every_beat(lambda _broker, elapsed_s: self._exits.tend(elapsed_s))
        return pulse

    def _follow_the_primary(self, broker: Broker, _elapsed_s: float) -> None:
        """After a failover by command the former primary goes on for seconds, and what it is told then is lost."""
        if not broker.has_moved():
            return
        if self._held is not None:
            self._held.leave()
        raise redis.ConnectionError("Sentinel names another primary")

    def _tell_rotation(self, broker: Broker) -> None:
        """Others see why this worker takes no tasks. Said with every beat: a record may be made anew meanwhile."""
        why = self._rotation.why
        if why or self._said_out:
            registry = Registry(broker, self._core.settings.namespace)
            registry.describe_self(identity.owner(), {"out_of_rotation": why})
            self._said_out = why

    def _tell_what_ended(self, broker: Broker) -> None:
        """While the loop does no turns: a worker that is being stopped, or a solo one inside a task."""
        if self._held is None or self._loop.age_s < 2 * STAMP_EVERY_S:
            return
        claims = Claims(broker)
        if self._held.blocks:
            self._held.give_back_behind(redelivered)
            self._held.give_back_unread(partial(claims.tags, self._held))
        claims.tell(self._held)

    def _tell_of_late_ends(self) -> None:
        """Tasks that ended here after others had taken them over: they ran, or run, twice."""
        held = self._held
        if held is not None and (held.late or held.dropped):
            late, dropped, held.late, held.dropped = held.late, held.dropped, 0, 0
            self._core.bus.publish(ClaimsTakenOver(held.owner, late, dropped))

    def _running(self) -> str:
        """For the beat: the attempts that a pool slot has begun, and whether this worker is being stopped."""
        attempts = (self._running_attempt(request) for request in running_requests())
        return packed((attempt for attempt in attempts if attempt is not None), stopping())

    def _running_attempt(self, request: Any) -> RunningAttempt | None:
        task = request.task.name
        headers = request.request_dict
        plan = self._core.plan_of_message(task, headers) if self._core.circuits_on else None
        if plan is None:
            return None
        retries = headers.get("retries")
        attempt = (retries if isinstance(retries, int) else 0) + 1
        circuit = plan.circuit_at(level_in(plan, journey_of(headers, "")))
        tag = "" if request.acknowledged else str(request.message.delivery_tag)
        return RunningAttempt(task, str(request.id), attempt, circuit, tag)

    def _release_parked(self, broker: Broker, elapsed_s: float) -> None:
        core = self._core
        fleet = Registry(broker, core.settings.namespace)
        core.parking.release(broker, core.refuses, core.share, elapsed_s, fleet.count)

    def _set_up(self, instance: Any = None, **_: Any) -> None:
        if self._is_worker and instance.app is self._core.app:
            queue = own_queue(self._core.settings.namespace, instance.hostname)
            self._core.app.amqp.queues.select_add(plain_queue(queue))

    def _consumer_made(self, consumer: Any) -> None:
        if self._held is not None:
            let_interrupted_go_first(consumer.controller)
            watch(consumer.pool, self._held)
            if self._core.settings.one_by_one_enabled:
                run_one_by_one(consumer.pool, self._held)
            when_terminated(consumer.pool, self._ends)
            settle_at_once(consumer)

    def _stops(self, **_: Any) -> None:
        if self._is_worker and self._pulse is not None:
            self._pulse.beat_now()  # whoever finds this worker dead shall know that it was being stopped

    def _begins_nothing_more(self) -> None:
        if self._held is not None:
            self._held.stopping = True

    def _connected(self, consumer: Any) -> None:
        """Before the consumer takes its first message on a new connection."""
        see_ends_at_once(consumer.pool)
        self._stand(consumer)
        own = own_queue(self._core.settings.namespace, consumer.hostname)
        if self._rotation.is_worker:
            if self._core.settings.checkout_enabled and self._checkout.start():
                self._rotation.on_look.append(look_after_children(consumer.pool, self._rotation))
            self._rotation.attach(consumer, own, self._held)
            if self._conduct is not None:
                self._conduct.connected(consumer)

    def _stand(self, consumer: Any) -> None:
        if self._pulse is None or self._former is None:
            return
        pool = consumer.pool
        self._consumer = consumer
        self._is_solo = isinstance(pool, SoloPool)
        if self._held is not None:
            self._held.blocks = self._is_solo
            keep_what_is_written(pool)
        self._loop.follow(consumer)
        if self._later is not None:
            know_delayed(consumer, self._pulse.owner, self._core.settings.namespace, self._later)
        self._pulse.start({
            "hostname": consumer.hostname,
            "pid": os.getpid(),
            "queues": sorted(self._core.app.amqp.queues.consume_from),
            "pool": type(pool).__module__.rpartition(".")[2],
            "concurrency": getattr(pool, "limit", None) or 1,
            "started_at": time.time(),
        })  # fmt: skip
        if consumer.restart_count:
            self._former.begin(time.time())

    def _loop_turns(self) -> bool:
        """Whether the consumer loop turned lately, or is rightly inside a task of a solo pool."""
        solo_at_work = self._is_solo and bool(len(worker_state.active_requests))
        return solo_at_work or self._loop.age_s < LOOP_TURNS_WITHIN_S

    def _child_ends(self, **_: Any) -> None:
        if self._is_worker:
            self._core.flush()

    def _ends(self, **_: Any) -> None:
        if self._is_worker:
            self._core.flush()
            self._exits.last_try()
            self._hand_back()
        if self._pulse is not None:
            self._pulse.stop()

    def _hand_back(self) -> None:
        """The last turn: the pool has stopped, so whatever is still held goes back."""
        held = self._held
        if held is None:
            return
        try:
            broker = Broker(self._core.app)
            try:
                Claims(broker).tell(held)
                Claims(broker).give_back(held)
            finally:
                broker.close()
        except BROKER_ERRORS as error:
            logger.warning("celeriac: what this worker held goes back by its lapsed pulse: %s", describe(error))


def _read_plans(core: Core) -> None:
    """Raises PlanError for what no worker of this app could do. All its modules are imported by now."""
    known = list(core.app.tasks)
    for name in known:
        plan = core.plan_for(name)
        for sentence in unknown_substitutes(plan, name, known) if plan is not None else ():
            raise PlanError(sentence)
