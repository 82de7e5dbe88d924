"""The front door: `Resilience(app)` installs everything on a Celery app, whenever the app is configured.

Nothing that the user set is changed: what the middleware needs goes in as defaults, below the app's own settings.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
import kombu.pools
from celery import Task
from celery import signals as celery_signals
from celery.concurrency.solo import TaskPool as SoloPool
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state

from resilience.breaker.guard import Breakers
from resilience.breaker.store import CircuitStore, connect
from resilience.delivery.broker import Broker, is_redis
from resilience.delivery.unacked import FormerConnection, transport_options
from resilience.gate import Gate
from resilience.plans import PlanError, plan_of
from resilience.recovery.failover import Plan
from resilience.recovery.parking import Parking
from resilience.request import ResilientRequest
from resilience.router import plain_queue, resilient_amqp
from resilience.runner import Runner
from resilience.settings import Settings, SettingsError, load
from resilience.task import ResilientTask
from resilience.workers import identity
from resilience.workers.health import HealthChecks, LoopStamp, own_queue
from resilience.workers.pulse import Pulse
from resilience.workers.registry import Registry, WorkerInfo
from signals.background import Background
from signals.bus import Bus
from signals.events import Attempt
from signals.receivers import Receivers
from signals.sinks.celery_events import celery_event_sink
from signals.sinks.log import log_sink

if TYPE_CHECKING:
    from celery import Celery

LOOP_TURNS_WITHIN_S = 5.0
STAMP_EVERY_S = 0.5

logger = logging.getLogger("celeriac")


class Resilience:
    """The middleware of one app. Calling it again for the same app returns the first.

    `res.breakers`: the shared circuits. `res.settings`: every option. `res.bus`: where sinks subscribe.
    """

    app: Celery

    def __new__(cls, app: Celery) -> Resilience:
        installed = getattr(app, "resilience", None)
        if isinstance(installed, Resilience):
            return installed
        return super().__new__(cls)

    def __init__(self, app: Celery) -> None:
        if getattr(app, "resilience", None) is self:
            return
        self.app = app
        app.resilience = self
        self.bus = Bus()
        self.answers: dict[str, Callable[[Any], None]] = {}
        self._plans: dict[str, Plan | None] = {}
        self._pulse: Pulse | None = None
        self._is_worker = False
        self._loop = LoopStamp()
        app.task_cls = _resilient_base(app.task_cls)
        app.amqp_cls = resilient_amqp(symbol_by_name(app.amqp_cls), self)
        app.add_defaults(self._defaults)
        app.on_after_configure.connect(self._configured, weak=False)
        app.on_after_finalize.connect(self._finalized, weak=False)
        app.steps["consumer"].add(Gate)
        Receivers(app, self._observe).connect()
        celery_signals.celeryd_init.connect(self._worker_begins, weak=False)
        celery_signals.celeryd_after_setup.connect(self._worker_set_up, weak=False)
        celery_signals.worker_process_shutdown.connect(self._child_ends, weak=False)
        celery_signals.worker_shutdown.connect(self._worker_ends, weak=False)
        self._health = HealthChecks(self)
        if app.configured:
            app.add_defaults(self._defaults())
            self._configured()

    # -- parts, made when first needed -------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The validated options. Raises SettingsError with one sentence; inside a command, the command's own error."""
        try:
            return load(self.app.conf)
        except SettingsError as error:
            if click.get_current_context(silent=True) is None:
                raise
            raise click.ClickException(f"celeriac: {error}") from None

    @cached_property
    def breakers(self) -> Breakers:
        """The shared circuits."""
        store = CircuitStore(connect(self._store_url(), self.settings.store_timeout_s), self.settings.namespace)
        breakers = Breakers(store, self.settings.policy, self.bus)
        atexit.register(breakers.flush)
        return breakers

    @cached_property
    def runner(self) -> Runner:
        return Runner(self)

    @cached_property
    def parking(self) -> Parking:
        return Parking(self.settings.namespace, self.settings.release_rate)

    def reconfigure(self) -> None:
        """Read broker, store and settings anew: for a process that starts a pool and then works with it."""
        if "breakers" in self.__dict__:
            self.breakers.close()
        for part in ("settings", "breakers", "parking", "runner"):
            self.__dict__.pop(part, None)
        self._plans.clear()
        kombu.pools.reset()
        self.app._pool = None  # noqa: SLF001  the app keeps the pool of its former URL otherwise
        self.app.__dict__.pop("amqp", None)
        self.app._local.__dict__.pop("backend", None)  # noqa: SLF001

    def workers(self) -> list[WorkerInfo]:
        """The live workers. Raises when the broker is away."""
        broker = Broker(self.app)
        try:
            return Registry(broker, self.settings.namespace).live()
        finally:
            broker.close()

    def plan_for(self, name: str, task: Any = None) -> Plan | None:
        """A task's plan by name; None when it has none, or is not known to this process."""
        try:
            return self._plans[name]
        except KeyError:
            pass
        if not self.settings.enabled:
            return None
        task = task if hasattr(task, "name") else self.app._tasks.get(name)  # noqa: SLF001  `tasks` would finalize
        if task is None:
            return None
        self._plans[name] = plan = plan_of(task)
        return plan

    # -- installation ------------------------------------------------------------------------------------------

    def _defaults(self) -> dict[str, Any]:
        if not self.settings.enabled:
            return {}
        return {
            "task_acks_late": True,
            "task_reject_on_worker_lost": True,
            "task_retry_on_worker_lost": True,
            "broker_connection_retry_on_startup": True,
        }

    def _configured(self, *_: Any, **__: Any) -> None:
        """The app's configuration is there: check ours, and add to what only then is known."""
        self.__dict__.pop("settings", None)
        settings = self.settings
        if not settings.enabled:
            return
        conf = self.app.conf
        if log_sink not in self.bus:
            self.bus.subscribe(log_sink)
            self.bus.subscribe(Background(celery_event_sink(self.app)))
        if settings.health_enabled:
            conf.beat_schedule = {**self._health.beat_schedule(), **(conf.beat_schedule or {})}

    def _finalized(self, *_: Any, **__: Any) -> None:
        """All tasks exist: give tasks with a base class of their own ours as well, and read every plan once."""
        if not self.settings.enabled:
            return
        if self.settings.health_enabled:
            self._health.install()
        ours = [task for name, task in self.app._tasks.items() if not name.startswith("celery.")]  # noqa: SLF001
        for task in ours:
            _adopt(task)
        for task in ours:
            self._plans.pop(task.name, None)
            self.plan_for(task.name, task)

    # -- a worker's life ---------------------------------------------------------------------------------------

    def _worker_begins(self, instance: Any = None, **_: Any) -> None:
        if instance is None or instance.app is not self.app:
            return
        try:
            settings = self.settings
            for name in list(self.app.tasks):
                self.plan_for(name)
        except (SettingsError, PlanError) as error:
            sys.exit(f"celeriac: {error}")
        if not settings.enabled:
            return
        self._is_worker = True
        owner = identity.pin()
        if settings.recovery_enabled and is_redis(self.app.conf.broker_read_url):
            # An explicit visibility_timeout or unacked key is the user's word; then their messages are theirs too.
            mine = transport_options(settings.namespace, owner)
            self.app.conf.broker_transport_options = {
                **mine,
                **(self.app.conf.broker_transport_options or {}),
            }
            self._pulse = Pulse(owner, settings, self.bus, lambda: Broker(self.app))
            self._former = FormerConnection(settings.namespace, owner, _running_tags)
            self._pulse.every_beat(lambda broker, _elapsed_s: self._former.look(broker))
            if settings.health_enabled:
                hostname = instance.hostname
                self._pulse.every_beat(lambda broker, _elapsed_s: self._health.tend(broker, hostname, self._loop_turns))
            self._pulse.every_beat(
                lambda broker, elapsed_s: self.parking.release(broker, self.breakers.may_pass, elapsed_s)
            )
        logger.info("celeriac: on as %s with %s", owner, ", ".join(f"{k}={v}" for k, v in self._defaults().items()))

    def _worker_set_up(self, instance: Any = None, **_: Any) -> None:
        if self._is_worker and instance.app is self.app:
            queue = own_queue(self.settings.namespace, instance.hostname)
            self.app.amqp.queues.select_add(plain_queue(queue))

    def on_connected(self, consumer: Any) -> None:
        """Before a consumer takes its first message on a new connection."""
        if self._pulse is None:
            return
        pool = consumer.pool
        self._is_solo = isinstance(pool, SoloPool)
        _stamp_turns(consumer, self._loop)
        self._pulse.start({
            "hostname": consumer.hostname,
            "pid": os.getpid(),
            "queues": sorted(self.app.amqp.queues.consume_from),
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

    def _observe(self, attempt: Attempt) -> None:
        self.runner.observe(attempt)

    def _child_ends(self, **_: Any) -> None:
        if self._is_worker and "breakers" in self.__dict__:
            self.breakers.flush()

    def _worker_ends(self, **_: Any) -> None:
        if self._is_worker and "breakers" in self.__dict__:
            self.breakers.flush()
        if self._pulse is not None:
            self._pulse.stop()

    def _store_url(self) -> str:
        conf = self.app.conf
        for url in (self.settings.redis_url, conf.broker_write_url, conf.result_backend):
            if isinstance(url, str) and url.startswith(("redis://", "rediss://", "unix://")):
                return url
        raise SettingsError(
            "no Redis for breaker state: neither the broker nor the result backend is Redis; set resilience_redis_url"
        )


def _stamp_turns(consumer: Any, stamp: LoopStamp) -> None:
    """Have the consumer's loop stamp its turns: by a timer of the event loop, else by what every turn calls."""
    stamp.touch()
    if consumer.hub is not None:
        consumer.hub.call_repeatedly(STAMP_EVERY_S, stamp.touch)
        return
    stock = type(consumer).perform_pending_operations

    def perform_pending_operations() -> None:
        stamp.touch()
        stock(consumer)

    consumer.perform_pending_operations = perform_pending_operations


def _running_tags() -> set[str]:
    """Delivery tags of the requests that this worker's pool is running now; called from another thread."""
    while True:
        try:
            return {request.message.delivery_tag for request in worker_state.active_requests}
        except RuntimeError:  # noqa: PERF203  the set changed while it was read: read it again
            continue


def _resilient_base(task_cls: Any) -> Any:
    base = symbol_by_name(task_cls)
    if base is Task:
        return ResilientTask
    return base if issubclass(base, ResilientTask) else _mixed(base)


def _adopt(task: Any) -> None:
    """A task made with a base class of the user's own gets ours in front of it."""
    if not isinstance(task, ResilientTask):
        type_of_task = type(task)
        task.__class__ = _mixed(type_of_task)


def _mixed(base: type) -> type:
    body: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "abstract": True}
    request = getattr(base, "Request", None)
    if request not in (Task.Request, ResilientRequest):
        body["Request"] = request  # a Request class of the user's own stays
    for option in ("circuit", "fallback"):
        if hasattr(base, option):
            body[option] = getattr(base, option)
    return type(base.__name__, (ResilientTask, base), body)
