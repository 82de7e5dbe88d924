"""The front door: `Resilience(app)` installs everything on a Celery app, whenever the app is configured.

Nothing that the user set is changed: what the middleware needs goes in as defaults, below the app's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Task
from celery.utils.imports import symbol_by_name

from resilience.breaker.guard import Breakers
from resilience.bulk import BATCH, send_all
from resilience.core import Core
from resilience.delivery.broker import Broker
from resilience.delivery.results import BACKENDS
from resilience.exits import Exits
from resilience.gate import gate_for
from resilience.parked import Parked
from resilience.plans import OPTIONS
from resilience.quarantine import verdict
from resilience.quarantine.desk import Quarantine
from resilience.recovery.chords import with_chords_that_go_on
from resilience.recovery.orchestrator import Recoveries
from resilience.request import ResilientRequest
from resilience.router import resilient_amqp
from resilience.runner import Runner
from resilience.sending import LeanSender
from resilience.settings import Settings
from resilience.task import ResilientTask, guarded
from resilience.worker import WorkerLife
from resilience.workers.checkout import Checkout, ReadyCheck
from resilience.workers.farewell import Released, release
from resilience.workers.health import HealthChecks
from resilience.workers.registry import Registry, WorkerInfo
from resilience.workers.rotation import Rotation
from resilience.workers.turned_away import turn_away
from signals.background import Background
from signals.bus import Bus
from signals.receivers import Receivers
from signals.redact_logs import redact_logs
from signals.sinks.celery_events import celery_event_sink
from signals.sinks.log import log_sink
from signals.sinks.sentry import sentry_sink

if TYPE_CHECKING:
    from celery import Celery

_Hook = TypeVar("_Hook", bound=Callable[[], object])

DEFAULTS = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "broker_connection_retry_on_startup": True,
}


class Resilience:
    """The middleware of one app. Calling it again for the same app returns the first.

    `res.breakers`: the shared circuits. `res.quarantine`: messages that cannot run. `res.settings`: every option.
    `res.recoveries`: what is done about failures, and how often what helped. `res.parked`: tasks that wait for their
    circuit.
    `res.bus`: where sinks subscribe.
    `res.workers()`: who is alive. `res.rotation`: whether this worker takes tasks.
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
        self._core = core = Core(app)
        self.runner = Runner(core)
        self._health = HealthChecks(core)
        self.rotation = Rotation(core.bus)
        self.checkout = Checkout(self.rotation)
        app.resilience = self
        app.task_cls = _resilient_base(app.task_cls)
        app._task_from_fun = _adopting(app._task_from_fun)  # noqa: SLF001  an eager run does not finalize the app
        app.send_task = LeanSender(app)
        app._get_backend = with_chords_that_go_on(app._get_backend, lambda: self.settings.enabled)  # noqa: SLF001  no other way in
        app.amqp_cls = resilient_amqp(symbol_by_name(app.amqp_cls), core)
        app.add_defaults(self._defaults)
        app.on_after_configure.connect(self._configured, weak=False)
        app.on_after_finalize.connect(self._finalized, weak=False)
        self.exits = exits = Exits(core)
        app.steps["consumer"].add(gate_for(core, exits))
        verdict.connect()
        Receivers(app, self.runner.observe, self.runner.ended_well).connect()
        WorkerLife(core, self._health, exits, self.rotation, self.checkout, self.runner.observe_dead)
        if app.configured:
            app.add_defaults(self._defaults())
            self._configured()
        if app.finalized:
            self._finalized()

    @property
    def settings(self) -> Settings:
        """The validated options. Raises SettingsError with one sentence."""
        return self._core.settings

    @property
    def breakers(self) -> Breakers:
        """The shared circuits."""
        return self._core.breakers

    @property
    def quarantine(self) -> Quarantine:
        """Messages that cannot run or were given up: list, show, count, replay, discard."""
        return self._core.quarantine

    @property
    def recoveries(self) -> Recoveries:
        """What is under way in the fleet, `active()`, and how often what helped, `counts()`."""
        return self._core.recoveries

    def on_free_resources(self, hook: _Hook) -> _Hook:
        """Have `hook()` called in a process that runs out of something: memory, file descriptors, disk. A decorator.

        It has the time budget of a recovery, a few seconds. Then the task is tried again.
        """
        self._core.frees.append(hook)
        return hook

    @property
    def parked(self) -> Parked:
        """Tasks that wait until their circuit lets calls pass again: list, oldest, release."""
        return self._core.parked

    @property
    def bus(self) -> Bus:
        """Where sinks subscribe to events."""
        return self._core.bus

    @overload
    def ready_check(self, probe: _Hook, *, name: str = "", every_s: float = 5.0, timeout_s: float = 2.0) -> _Hook: ...

    @overload
    def ready_check(
        self, probe: None = None, *, name: str = "", every_s: float = 5.0, timeout_s: float = 2.0
    ) -> Callable[[_Hook], _Hook]: ...

    def ready_check(
        self, probe: _Hook | None = None, *, name: str = "", every_s: float = 5.0, timeout_s: float = 2.0
    ) -> _Hook | Callable[[_Hook], _Hook]:
        """Have every worker ask `probe` whether it can run tasks; a decorator, with or without arguments.

        `probe` passes unless it raises or returns False. The worker's main process calls it, in a thread, before the
        first task and every `every_s` seconds; a call that takes longer than `timeout_s` fails. While it fails, the
        worker takes no tasks. `name` is what people read, by default the function's. Raises ValueError for times that
        are not seconds above 0.
        """
        if probe is None:
            return lambda given: self.ready_check(given, name=name, every_s=every_s, timeout_s=timeout_s)
        self.checkout.add(ReadyCheck(name or getattr(probe, "__name__", repr(probe)), probe, every_s, timeout_s))
        return probe

    def turn_away(self, task: Any, request: Any, error: Exception) -> None:
        """Called where a task raised NotReadyError: raises what has another worker run it; returns to let it fail."""
        if self.settings.enabled and self.settings.checkout_enabled:
            turn_away(task, request, error, self.settings.checkout_patience_s)

    def workers(self) -> list[WorkerInfo]:
        """The live workers. Raises when the broker is away."""
        broker = Broker(self.app)
        try:
            return Registry(broker, self.settings.namespace).live()
        finally:
            broker.close()

    def send_all(self, signatures: Iterable[Any], *, batch: int = BATCH) -> list[Any]:
        """Send many tasks, `batch` of them per round trip: see `resilience.send_all`."""
        return send_all(signatures, batch=batch, app=self.app)

    def release(self, force: bool = False) -> Released:
        """Put what only this middleware knows onto plain queues, for stock workers. Raises when the broker is away.

        Parked and delayed messages, and what dead workers held. Nothing is done while workers of it are alive, which
        would take the messages up again, unless `force`.
        """
        broker = Broker(self.app)
        try:
            return release(broker, self.settings, self._core.parking, force)
        finally:
            broker.close()

    def reconfigure(self) -> None:
        """Read broker, store and settings anew: for a process that starts a pool and then works with it."""
        self._core.reconfigure()

    def _defaults(self) -> dict[str, Any]:
        return DEFAULTS if self.settings.enabled else {}

    def _configured(self, *_: Any, **__: Any) -> None:
        """The app's configuration is there: check ours, and add to what only then is known."""
        self._core.forget_settings()
        if not self.settings.enabled:
            return
        redact_logs()
        if self.settings.publishing_enabled:
            loader = self.app.loader
            loader.override_backends = {**BACKENDS, **loader.override_backends}
        if log_sink not in self.bus:
            self.bus.subscribe(log_sink)
            self.bus.subscribe(Background(celery_event_sink(self.app)))
            if self.settings.sentry_enabled:
                self.bus.subscribe(sentry_sink())
        if self.settings.health_enabled:
            conf = self.app.conf
            conf.beat_schedule = {**self._health.beat_schedule(), **(conf.beat_schedule or {})}

    def _finalized(self, *_: Any, **__: Any) -> None:
        """All tasks exist: give tasks with a base class of their own ours as well, and read every plan once."""
        if not self.settings.enabled:
            return
        if self.settings.health_enabled:
            self._health.install()
        tasks = [task for name, task in self.app._tasks.items() if not name.startswith("celery.")]  # noqa: SLF001
        for task in tasks:
            _adopt(task)
        for task in tasks:
            self._core.forget_plan(task.name)
            self._core.plan_for(task.name, task)


def _resilient_base(task_cls: Any) -> Any:
    base = symbol_by_name(task_cls)
    if base is Task:
        return ResilientTask
    return base if issubclass(base, ResilientTask) else _mixed(base)


def _adopting(make_task: Callable[..., Any]) -> Callable[..., Any]:
    """Celery's task factory, with every task adopted as soon as it is made."""

    def make(*args: Any, **options: Any) -> Any:
        task = make_task(*args, **options)
        if not task.name.startswith("celery."):
            _adopt(task)
        return task

    return make


def _adopt(task: Any) -> None:
    """A task made with a base class of the user's own gets ours in front of it, its own `__call__` inside ours."""
    base = type(task)
    if not isinstance(task, ResilientTask):
        task.__class__ = _mixed(base)
    elif base.__call__ not in (ResilientTask.__call__, _outermost_call):
        task.__class__ = type(base.__name__, (base,), {"__module__": base.__module__, "__call__": _outermost_call})


def _outermost_call(task: Any, *args: Any, **kwargs: Any) -> Any:
    own = type(task).__mro__[1].__call__
    return guarded(task, lambda *a, **k: own(task, *a, **k), args, kwargs)


def _mixed(base: type) -> type:
    body: dict[str, Any] = {"__module__": base.__module__, "__doc__": base.__doc__, "abstract": True}
    request = getattr(base, "Request", None)
    if request not in (Task.Request, ResilientRequest):
        body["Request"] = request  # a Request class of the user's own stays
    for option in OPTIONS:
        if hasattr(base, option):
            body[option] = getattr(base, option)
    return type(base.__name__, (ResilientTask, base), body)
