"""What the rooms of the middleware share: the app's settings, the circuits, the bus, the plans of its tasks.

The rooms know this; only the front door (`resilience.middleware`) knows the rooms.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
import kombu.pools
from redis import ConnectionPool
from redis.exceptions import RedisError

from resilience.breaker.guard import Breakers
from resilience.delivery.broker import Broker, client_url, is_redis
from resilience.errors.taxonomy import ErrorCategory, Row
from resilience.parked import Parked
from resilience.plans import near_misses, plan_of
from resilience.quarantine.desk import Quarantine
from resilience.quarantine.place import StorePlace
from resilience.quarantine.sending import publisher
from resilience.quarantine.store import Limits
from resilience.recovery.failover import HEADER, Journey, Plan, journey_of, level_in
from resilience.recovery.orchestrator import Recoveries
from resilience.recovery.parking import Parking
from resilience.retry.budget import BudgetRule
from resilience.retry.fleet import RetryBudgets
from resilience.settings import Settings, SettingsError, load
from resilience.shared_redis import SharedRedis, connect
from signals.bus import Bus
from signals.events import TaskRerouted
from signals.redact import hide_names, redact

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celeriac")

Answer = Callable[[Any], None]
"""Takes a raw message that the main process answers itself."""


def never(_message: Any, _body: Any) -> bool:
    """Without a transport of ours, what is due later waits as in stock Celery: in the memory of a worker."""
    return False


class Core:
    """One per app. Parts are made when first needed, so that an app may be configured after it was made resilient."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.bus = Bus()
        self.answers: dict[str, Answer] = {}
        self.on_consumer: list[Callable[[Any], None]] = []
        self.hands_over: Callable[[Any, Any], bool] = never
        self.on_connected: list[Callable[[Any], None]] = []
        self.on_stopping: list[Callable[[], None]] = []
        self.frees: list[Callable[[], object]] = [self._close_idle]
        self._plans: dict[str, Plan | None] = {}

    @cached_property
    def settings(self) -> Settings:
        """The validated options. Raises SettingsError with one sentence; inside a command, the command's own error."""
        try:
            settings = load(self.app.conf)
        except SettingsError as error:
            if click.get_current_context(silent=True) is None:
                raise
            raise click.ClickException(f"celeriac: {error}") from None
        hide_names(settings.redact_names)
        return settings

    @cached_property
    def breakers(self) -> Breakers:
        """The shared circuits, with the rule of their retry budgets for whoever calls through them."""
        shared = SharedRedis(connect(self._store_url(), self.settings.store_timeout_s), self.settings.namespace)
        breakers = Breakers(shared, self.settings.policy, self.bus, self.matrix)
        RetryBudgets.of(breakers, BudgetRule(self.settings.retry_budget_ratio, self.settings.retry_budget_per_s))
        atexit.register(breakers.flush)
        return breakers

    @cached_property
    def matrix(self) -> Mapping[ErrorCategory, Row]:
        """The error matrix with this app's changes."""
        return self.settings.error_matrix

    @cached_property
    def budgets(self) -> RetryBudgets:
        """How many retries the fleet may still make, by circuit."""
        return RetryBudgets.of(self.breakers)

    @cached_property
    def circuits_on(self) -> bool:
        """Whether circuits take part. Without any Redis to keep them they do not, and it is said once."""
        if not (self.settings.enabled and self.settings.breakers_enabled):
            return False
        try:
            connect(self._store_url(), self.settings.store_timeout_s).close()  # reads the URL, opens no connection
        except (SettingsError, ValueError, RedisError) as error:
            logger.error("celeriac: circuits are off: %s", redact(str(error)))  # noqa: TRY400  a sentence, not a traceback
            return False
        return True

    @cached_property
    def task_time_limit(self) -> float | None:
        """Celery's setting, in seconds. Read once: Celery's configuration takes microseconds to say it."""
        limit: float | None = self.app.conf.task_time_limit
        return limit

    def may_pass(self, circuit: str) -> bool:
        """Advice without I/O: is a call through `circuit` likely to be admitted now? Always, while circuits are off."""
        return not self.circuits_on or self.breakers.may_pass(circuit)

    def refuses(self, circuit: str) -> bool:
        """Whether nothing passes through `circuit` now, not even a probe. Unlike `may_pass` this uses up no probe."""
        return self.circuits_on and self.breakers.refuses(circuit)

    def share(self, circuit: str) -> float:
        """Which share of all calls passes through `circuit`: 1 when it is closed, 0 while it is probed."""
        return self.breakers.share(circuit) if self.circuits_on else 1.0

    def may_retry(self, circuit: str) -> bool:
        """Spend one retry of the fleet's budget for `circuit`; False when it is spent. One round trip."""
        return not self.circuits_on or self.budgets.may_retry(circuit)

    def may_enter(self, circuit: str) -> bool:
        """The same at the door of a worker, where a circuit that closed a moment ago lets in a growing share."""
        return not self.circuits_on or self.breakers.may_pass(circuit, ramp=True)

    @cached_property
    def parking(self) -> Parking:
        return Parking(self.settings.namespace, self.settings.release_rate, lambda: Broker(self.app))

    @cached_property
    def recoveries(self) -> Recoveries:
        """What is done about failures beyond retry and failover, and how often what helped; where circuits are on."""
        return Recoveries(self.breakers, self.bus, self.frees)

    def _close_idle(self) -> None:
        """Let go of the Redis connections that this process does not use now; they are made anew when needed."""
        if "breakers" in self.__dict__:
            self.breakers.shared.client.connection_pool.disconnect(inuse_connections=False)
        backend = self.app._backend  # noqa: SLF001  its public name would make one
        results = {} if backend is None else vars(backend)  # where a client is, if it has been used
        pool = getattr(results.get("client"), "connection_pool", None)
        if isinstance(pool, ConnectionPool):
            pool.disconnect(inuse_connections=False)

    @cached_property
    def parked(self) -> Parked:
        """What waits in the parking place, for operators."""

        def state_of(circuit: str) -> str:
            return self.breakers.get_state(circuit) if self.circuits_on else "closed"

        return Parked(self.settings.namespace, self.parking, self.bus, lambda: Broker(self.app), state_of)

    @cached_property
    def quarantine(self) -> Quarantine:
        """Where messages lie that cannot run: in the Redis of the broker, else in that of the circuits."""
        settings, app = self.settings, self.app
        limits = Limits(settings.quarantine_max, settings.quarantine_max_bytes, settings.quarantine_age_s)
        if is_redis(app.conf.broker_write_url):
            return Quarantine(settings.namespace, limits, settings.quarantine_replays, self.bus, lambda: Broker(app))
        url = self._store_url()
        return Quarantine(
            settings.namespace, limits, settings.quarantine_replays, self.bus, lambda: StorePlace(url), publisher(app)
        )

    @cached_property
    def quarantine_on(self) -> bool:
        """Whether messages are quarantined. Without any Redis to keep them they are not, and it is said once."""
        if not (self.settings.enabled and self.settings.quarantine_enabled):
            return False
        try:
            self.quarantine  # noqa: B018  it reads the URLs and opens no connection
        except (SettingsError, ValueError, RedisError) as error:
            logger.error("celeriac: the quarantine is off: %s", redact(str(error)))  # noqa: TRY400  a sentence, not a traceback
            return False
        return True

    def tell_moved(self, task_id: str, task: str, journey: Journey) -> None:
        """Publish the last hop of a journey."""
        hop = journey.hops[-1]
        self.bus.publish(TaskRerouted(task_id, task, hop.origin, hop.destination, hop.reason, journey.hop_count))

    @cached_property
    def can_park(self) -> bool:
        """Whether workers have a pulse that releases what is parked; else a refused task comes back by countdown."""
        return is_redis(self.app.conf.broker_write_url) and self.settings.recovery_enabled

    def flush(self) -> None:
        """Send what the circuits have not reported yet, if any was used."""
        if "breakers" in self.__dict__:
            self.breakers.flush()

    def forget_settings(self) -> None:
        """The app's configuration changed: validate it again when it is next asked for."""
        for part in ("settings", "matrix", "circuits_on", "quarantine", "quarantine_on", "task_time_limit"):
            self.__dict__.pop(part, None)

    def reconfigure(self) -> None:
        """Read broker, store and settings anew: for a process that starts a pool and then works with it."""
        if "breakers" in self.__dict__:
            self.breakers.close()
        if "quarantine" in self.__dict__:
            self.quarantine.close()
        made = ("breakers", "budgets", "can_park", "parking", "parked", "quarantine", "recoveries")
        for part in ("settings", "matrix", "circuits_on", "quarantine_on", "task_time_limit", *made):
            self.__dict__.pop(part, None)
        self._plans.clear()
        kombu.pools.reset()
        self.app._pool = None  # noqa: SLF001  the app keeps the pool of its former URL otherwise
        self.app.__dict__.pop("amqp", None)
        self.app._local.__dict__.pop("backend", None)  # noqa: SLF001

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
        for sentence in near_misses(task):
            logger.warning("celeriac: %s", sentence)
        return plan

    def plan_of_message(self, name: str, headers: Mapping[str, Any] | None, task: Any = None) -> Plan | None:
        """The plan under which a message of the task `name` runs: that of the task for which it stands in, if it does.

        Where the other task is not known, or knows nothing of this one any more, a substitute has a circuit and no
        levels.
        """
        sent = journey_of(headers, "").task if headers and HEADER in headers else ""
        if not sent or sent == name:
            return self.plan_for(name, task)
        plan = self.plan_for(sent)
        if plan is not None and plan.has_substitute(name):
            return plan
        own = self.plan_for(name, task)
        return own and replace(own, levels=())

    def name_to_send(self, name: str, headers: Mapping[str, Any]) -> str:
        """The task that a message must name on the level that its headers say, where it is sent as `name`."""
        journey = journey_of(headers, "")
        plan = self.plan_for(journey.task) if journey.task else None
        if plan is None or not (name == journey.task or plan.has_substitute(name)):
            return name
        return plan.task_at(level_in(plan, journey), journey.task)

    def forget_plan(self, name: str) -> None:
        """The task changed: read its options again when they are next asked for."""
        self._plans.pop(name, None)

    def _store_url(self) -> str:
        conf = self.app.conf
        for url, use_ssl in (
            (self.settings.redis_url, None),
            (conf.broker_write_url, conf.broker_use_ssl),
            (conf.result_backend, conf.redis_backend_use_ssl),
        ):
            if client_url(url):
                return client_url(url, use_ssl)
        raise SettingsError(
            "no Redis for breaker state: neither the broker nor the result backend is Redis; set resilience_redis_url"
        )
