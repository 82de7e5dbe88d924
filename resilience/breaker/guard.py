"""Circuits as a process uses them: admission by a local view, outcomes reported to the store, both bounded in time.

`Breakers` is the public face. The closed path is a dictionary look-up; the view is kept true by `watcher`; without
Redis the process counts for itself with the same state machine and says so.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from resilience.breaker.alone import Alone
from resilience.breaker.calls import CircuitCalls
from resilience.breaker.link import Link
from resilience.breaker.machine import State
from resilience.breaker.operating import Operating
from resilience.breaker.owed import Owed
from resilience.breaker.pending import Pending
from resilience.breaker.permit import Permit, permit_from_thread
from resilience.breaker.policies import Policies
from resilience.breaker.policy import BreakerPolicy, check_name
from resilience.breaker.reporting import Reporting
from resilience.breaker.store import CircuitStore, Reply
from resilience.breaker.view import Stance, View, Views
from resilience.breaker.watcher import Watcher
from resilience.errors.taxonomy import MATRIX, CircuitOpenError, ErrorCategory, Row
from resilience.shared_redis import SharedRedis, connect
from signals.bus import Bus

T = TypeVar("T")


class Companion(Protocol):
    """What a room above keeps per process beside the circuits, such as their retry budgets."""

    def flush(self) -> None:
        """Send what waits. Called twice a second by the watcher's thread, and at the end."""

    def begin_in_child(self) -> None:
        """After a fork: forget what the parent will send, and every lock."""


C = TypeVar("C", bound=Companion)


class Breakers(Reporting, Operating):
    """All circuits of one namespace, for this process. Thread-safe, fork-safe, and safe under gevent.

    `policy` gives a circuit's policy by name, `matrix` says which errors count. Events go to `bus`.
    """

    def __init__(
        self,
        shared: SharedRedis,
        policy: Callable[[str], BreakerPolicy] | None = None,
        bus: Bus | None = None,
        matrix: Mapping[ErrorCategory, Row] = MATRIX,
    ) -> None:
        self._shared = shared
        self._store = CircuitStore(shared)
        self._bus = bus or Bus()
        self._policy = Policies(policy or (lambda _name: BreakerPolicy()), self._bus)
        self._matrix = matrix
        self._companions: dict[Any, Companion] = {}
        self._begin()
        reference = weakref.ref(self)

        def begin_in_child() -> None:
            breakers = reference()
            if breakers is not None:
                breakers._shared.reconnect_in_child()  # noqa: SLF001  a closure of this very class
                breakers._begin()  # noqa: SLF001  the same
                for companion in breakers._companions.values():  # noqa: SLF001  the same
                    companion.begin_in_child()

        os.register_at_fork(after_in_child=begin_in_child)

    @classmethod
    def from_url(
        cls, url: str, *, namespace: str = "celeriac", timeout_s: float = 0.25,
        policies: Mapping[str, BreakerPolicy] | None = None, bus: Bus | None = None,
    ) -> Breakers:  # fmt: skip
        """The same breakers outside Celery: a web app, a script. `url` is a redis:// or rediss:// URL."""
        named = dict(policies or {})
        default = BreakerPolicy()

        def policy(name: str) -> BreakerPolicy:
            return named.get(name) or named.get(name.partition("@")[0], default)

        breakers = cls(SharedRedis(connect(url, timeout_s), namespace), policy, bus)
        atexit.register(_flush, weakref.ref(breakers))
        return breakers

    def _begin(self) -> None:
        self.link = Link(self._bus, self._store.knock, self._shared.timeout_s)
        self._views = Views()
        self._alone = Alone(self._views.get)
        self._pending = Pending()
        self._owed = Owed()
        self._watcher = Watcher(self._store, self.link, self._views, self._alone, self._policy)
        self._watcher.turns.append(weakref.WeakMethod(self.flush))
        weakref.finalize(self, self._watcher.abandon)

    @property
    def shared(self) -> SharedRedis:
        """The Redis that these circuits are shared through."""
        return self._shared

    @property
    def matrix(self) -> Mapping[ErrorCategory, Row]:
        """What is done about errors here, by category."""
        return self._matrix

    def companion(self, kind: Callable[[Breakers], C]) -> C:
        """The one `kind` of thing that goes with these circuits; made when it is first asked for."""
        found = self._companions.get(kind)
        if found is None:
            found = self._companions.setdefault(kind, kind(self))  # threads that meet here agree on one
        return cast("C", found)

    # -- admission ---------------------------------------------------------------------------------------------

    def admit(
        self, name: str, permit_id: str | None = None, lease_s: float | None = None, *, ramp: bool = True
    ) -> Permit:
        """A permit for one call through circuit `name`, or CircuitOpenError. No round trip while closed.

        `permit_id` names the call (a repeated ask with the same id is the same permit); `lease_s` is how long a
        half-open permit lives if nobody settles it, at most as long as the policy says. Without `ramp` a circuit that
        closed a moment ago admits all.
        """
        free = self.admit_freely(name)
        if free is not None:
            return free
        permit = self._admit_by(name, self._view(name), ramp)
        return permit if permit is not None else self._admit_by_asking(name, permit_id, lease_s)

    def is_free(self, name: str) -> bool:
        """Whether this process knows the circuit as closed, without a ramp: one look-up, and nothing is begun."""
        view = self._views.get(name)
        return view is not None and view.free

    def admit_freely(self, name: str) -> Permit | None:
        """A permit where this process knows the circuit as closed, without a ramp; else None: `admit` has to look."""
        view = self._views.get(name)
        return Permit(self, name, view.epoch) if view is not None and view.free else None

    async def admit_async(self, name: str, permit_id: str | None = None, lease_s: float | None = None) -> Permit:
        """The same for an event loop: what has to be asked of the store is asked on a thread."""
        free = self.admit_freely(name)
        if free is not None:
            return free
        if not self._watcher.started:
            check_name(name)
            await asyncio.to_thread(self._watcher.start)
        permit = self._admit_by(name, self._views.get(name), ramp=True)
        if permit is not None:
            return permit
        return await permit_from_thread(lambda: self._admit_by_asking(name, permit_id, lease_s))

    def may_pass(self, name: str, *, ramp: bool = False) -> bool:
        """Advice without I/O, for routing: is a call likely to be admitted now? Near half-open: a few per second."""
        view = self._view(name)
        if view is None or view.free:
            return True
        match view.stance():
            case Stance.REFUSE:
                return False
            case Stance.ASK:
                return self._views.take_pass(name, self._policy(name).half_open_permits)
            case Stance.RAMP:
                return not ramp or self._ramp_lets_pass(name, view)
            case _:
                return True

    def refuses(self, name: str) -> bool:
        """Whether this process believes that nothing passes now, not even a probe; no I/O, and no pass is used up."""
        view = self._view(name)
        return view is not None and view.stance() is Stance.REFUSE

    def flows(self, name: str) -> bool:
        """Whether this process believes that everything passes; no I/O, and no pass is used up."""
        return self.share(name) == 1.0

    def share(self, name: str) -> float:
        """Which share of all calls passes, as this process believes: 1 closed, growing on the ramp, 0 while probing."""
        view = self._view(name)
        match Stance.PASS if view is None else view.stance():
            case Stance.PASS | Stance.UNRECORDED:
                return 1.0
            case Stance.RAMP if view is not None:
                return self._ramp_share(name, view)
            case _:
                return 0.0

    def call(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """`function(*args, **kwargs)` through circuit `name`; of an async function, its awaitable."""
        guarded: Callable[..., T] = self.circuit(name)(function)
        return guarded(*args, **kwargs)

    def circuit(self, name: str, policy: BreakerPolicy | None = None) -> CircuitCalls:
        """For `with`, `async with`, and as a decorator of sync and async functions. `policy` wins over the settings."""
        check_name(name)
        if policy is not None:
            self._policy.give(name, policy)
        return CircuitCalls(name, lambda: self)

    def flush(self) -> None:
        """Send the successes that wait for company, and what companions keep."""
        super().flush()
        for companion in tuple(self._companions.values()):
            companion.flush()

    def _view(self, name: str) -> View | None:
        if not self._watcher.started:
            check_name(name)
            self._watcher.start()
        return self._views.get(name)

    def _admit_by(self, name: str, view: View | None, ramp: bool) -> Permit | None:
        """A permit by what this process believes; None if only the store can say."""
        if view is None:
            return Permit(self, check_name(name), 1)
        match view.stance():
            case Stance.ASK:
                return None
            case Stance.REFUSE:
                wait_s = view.remaining_s if view.ends_at is not None else self._policy(name).open_s
                raise CircuitOpenError(name, view.state.value, wait_s)
            case Stance.RAMP if ramp and not self._ramp_lets_pass(name, view):
                raise CircuitOpenError(name, "ramping", view.remaining_s)
            case _:
                return Permit(self, name, view.epoch)

    def _admit_by_asking(self, name: str, permit_id: str | None, lease_s: float | None) -> Permit:
        policy = self._policy(name)
        permit_id = permit_id or uuid.uuid4().hex
        # of a longer one the rest is added while the call lasts: what nobody settles takes a place no longer than that
        lease_s = min(lease_s or policy.permit_lease_s, policy.permit_lease_s)
        reply = self.link.ask(
            lambda: self._store.admit(name, policy, permit_id, lease_s),
            lambda: self._admit_alone(name, policy, permit_id, lease_s),
            f"circuit {name}",
        )
        self._learn(name, reply)
        if not reply.granted:
            raise CircuitOpenError(name, reply.state.value, max(0, reply.remaining_ms) / 1000)
        if reply.state is not State.HALF_OPEN:
            return Permit(self, name, reply.epoch)
        permit = Permit(self, name, reply.epoch, permit_id, lease_s)
        self._watcher.keep(permit)
        return permit

    def _admit_alone(self, name: str, policy: BreakerPolicy, permit_id: str, lease_s: float) -> Reply:
        reply = self._alone.admit(name, policy, permit_id, lease_s)
        if not reply.granted or reply.state is not State.HALF_OPEN:  # else who got it settles it
            self._owed.give_back(name, permit_id)
        return reply

    def _ramp_share(self, name: str, view: View) -> float:
        ramp_s = self._policy(name).ramp_s
        return max(0.0, 1.0 - view.remaining_s / ramp_s) if ramp_s else 1.0

    def _ramp_lets_pass(self, name: str, view: View) -> bool:
        """A share of the calls that grows with time; of a trickle, all: it stampedes nobody."""
        lucky = random.random() < self._ramp_share(name, view)  # noqa: S311  no secret
        return lucky or self._views.take_pass(name, self._policy(name).half_open_permits)

    def __enter__(self) -> Breakers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits, stop the watcher, close the connections."""
        self.flush()
        self._watcher.close()
        self._shared.close()


def _flush(reference: weakref.ref[Breakers]) -> None:
    """At the end of a process that did not close them: what waits is not lost."""
    breakers = reference()
    if breakers is not None:
        breakers.flush()
