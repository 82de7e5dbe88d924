"""Circuits as a process uses them: admission by a local view, outcomes reported to the store, both bounded in time.

`Breakers` is the public face. The closed path is a dictionary look-up; the view is pushed by the store and polled as
a backstop; without Redis the process counts for itself with the same state machine and says so.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from resilience.breaker.alone import Alone
from resilience.breaker.machine import Outcome, State
from resilience.breaker.permit import Permit, as_result
from resilience.breaker.policy import BreakerPolicy, check_name
from resilience.breaker.snapshot import snapshot_of
from resilience.breaker.store import (
    STORE_ERRORS,
    CircuitStore,
    IndexEntry,
    Reply,
    connect,
    parse_push,
    pushes,
)
from resilience.breaker.view import Views
from resilience.errors.taxonomy import CircuitOpenError
from resilience.identity import owner
from signals.bus import Bus
from signals.events import CircuitChanged, Event, Result, StoreAway, StoreBack
from signals.redact import describe

FLUSH_AFTER_S = 0.1
POLL_S = 1.0

T = TypeVar("T")

logger = logging.getLogger("celeriac")


class Breakers:
    """All circuits of one namespace, for this process. Thread-safe and fork-safe.

    `policy` gives a circuit's policy by name. Events go to `bus`.
    """

    def __init__(
        self,
        store: CircuitStore,
        policy: Callable[[str], BreakerPolicy] | None = None,
        bus: Bus | None = None,
    ) -> None:
        self._store = store
        self._policy = policy or (lambda _name: BreakerPolicy())
        self._bus = bus or Bus()
        self._begin()
        reference = weakref.ref(self)

        def begin_in_child() -> None:
            breakers = reference()
            if breakers is not None:
                breakers._store.reconnect_in_child()  # noqa: SLF001  a closure of this very class
                breakers._begin()  # noqa: SLF001  the same

        os.register_at_fork(after_in_child=begin_in_child)

    @classmethod
    def from_url(
        cls, url: str, *, namespace: str = "celeriac", timeout_s: float = 0.25,
        policies: Mapping[str, BreakerPolicy] | None = None, bus: Bus | None = None,
    ) -> Breakers:  # fmt: skip
        """The same breakers outside Celery: a web app, a script. `url` is a redis:// or rediss:// URL."""
        named = dict(policies or {})
        default = BreakerPolicy()
        store = CircuitStore(connect(url, timeout_s), namespace)
        return cls(store, lambda name: named.get(name) or named.get(name.partition("@")[0], default), bus)

    def _begin(self) -> None:
        self._views = Views()
        self._alone = Alone(self._views.get)
        self._version = -1
        self._lock = threading.RLock()
        self._pending: dict[str, tuple[int, int]] = {}
        self._flushed_at: dict[str, float] = {}
        self._probes: weakref.WeakSet[Permit] = weakref.WeakSet()
        self._away_since: float | None = None
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()

    # -- admission ---------------------------------------------------------------------------------------------

    def admit(self, name: str, permit_id: str | None = None, lease_s: float | None = None) -> Permit:
        """A permit for one call through circuit `name`, or CircuitOpenError. No round trip while closed.

        `permit_id` names the call (a repeated ask with the same id is the same permit); `lease_s` is how long a
        half-open permit lives if nobody settles it.
        """
        if self._watcher is None:
            self._watch(name)
        view = self._views.get(name)
        if view is None:
            return Permit(self.settle, check_name(name), 1)
        if view.state is State.CLOSED:
            return Permit(self.settle, name, view.epoch)
        wait_s = view.probe_in_s
        if wait_s > 0:
            raise CircuitOpenError(name, view.state.value, wait_s)
        policy = self._policy(name)
        permit_id = permit_id or uuid.uuid4().hex
        lease_s = policy.permit_lease_s if lease_s is None else lease_s
        reply = self._ask(
            lambda: self._store.admit(name, policy, permit_id, lease_s),
            lambda: self._alone.admit(name, policy, permit_id, lease_s),
        )
        self._learn(name, reply)
        if not reply.granted:
            raise CircuitOpenError(name, reply.state.value, reply.remaining_ms / 1000)
        if reply.state is State.CLOSED:
            return Permit(self.settle, name, reply.epoch)
        permit = Permit(self.settle, name, reply.epoch, permit_id, lease_s)
        with self._lock:
            self._probes.add(permit)
        return permit

    def may_pass(self, name: str) -> bool:
        """Advice without I/O, for routing: is a call likely to be admitted now? Near half-open: a few per second."""
        if self._watcher is None:
            self._watch(name)
        view = self._views.get(name)
        if view is None or view.state is State.CLOSED:
            return True
        if view.probe_in_s > 0:
            return False
        return self._views.take_pass(name, self._policy(name).half_open_permits)

    def is_closed(self, name: str) -> bool:
        """Whether this process believes circuit `name` closed; no I/O, and no pass is used up."""
        view = self._views.get(name)
        return view is None or view.state is State.CLOSED

    def probe_in_s(self, name: str) -> float:
        """Seconds until an open circuit may be probed, as this process believes; 0 when it is not open."""
        view = self._views.get(name)
        return view.probe_in_s if view is not None else 0.0

    def call(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """`function(*args, **kwargs)` through circuit `name`."""
        with self.circuit(name):
            return function(*args, **kwargs)

    @contextmanager
    def circuit(self, name: str) -> Iterator[Permit]:
        """`with breakers.circuit("openai"):` admits, and settles with what the block raised or did not."""
        permit = self.admit(check_name(name))
        try:
            yield permit
        except BaseException as error:
            permit.settle(error if isinstance(error, Exception) else Result.NOTHING)
            raise
        permit.settle()

    # -- outcomes ----------------------------------------------------------------------------------------------

    def record_success(self, name: str) -> None:
        self.settle(check_name(name), self._epoch(name), "", Result.SUCCESS)

    def record_failure(self, name: str, error: BaseException | None = None) -> None:
        """Count a failure; with `error`, only if its category counts against a circuit."""
        result = Result.FAILURE if error is None else as_result(error)
        self.settle(check_name(name), self._epoch(name), "", result)

    def settle(self, name: str, epoch: int, permit_id: str, result: Result) -> None:
        """Report an outcome admitted under `epoch`. Successes wait for company up to 0.1 s; failures go at once."""
        if result is Result.NOTHING and not permit_id:
            return
        with self._lock:
            pending = 0
            if not permit_id:
                pending_epoch, count = self._pending.pop(name, (epoch, 0))
                pending = count if pending_epoch == epoch else 0
            if result is Result.SUCCESS:
                pending += 1
                recent = time.monotonic() - self._flushed_at.get(name, -1.0) < FLUSH_AFTER_S
                if recent and not permit_id:
                    self._pending[name] = (epoch, pending)
                    return
            self._flushed_at[name] = time.monotonic()
        self._report(name, Outcome(epoch, owner(), pending, result is Result.FAILURE, permit_id))

    def settle_lost(self, name: str, permit_id: str, result: Result) -> None:
        """Report an attempt whose process died: its permit, if it held one, is known by its id only."""
        epoch = self._epoch(name)
        view = self._views.get(name)
        probing = view is not None and view.state is not State.CLOSED
        self.settle(name, epoch, permit_id if probing else "", result)

    def flush(self) -> None:
        """Send the successes that wait for company."""
        with self._lock:
            waiting, self._pending = self._pending, {}
        for name, (epoch, count) in waiting.items():
            self._report(name, Outcome(epoch, owner(), count))

    def _report(self, name: str, outcome: Outcome) -> None:
        policy = self._policy(name)
        jitter = random.random()  # noqa: S311  spreads probes, protects nothing
        reply = self._ask(
            lambda: self._store.record(name, policy, outcome, jitter),
            lambda: self._alone.record(name, policy, outcome, jitter),
        )
        self._learn(name, reply)

    # -- operators ---------------------------------------------------------------------------------------------

    def get_state(self, name: str) -> str:
        """closed, open or half_open, asked of the store (a circuit nobody used is closed)."""
        return str(self.snapshot(name).get("state", State.CLOSED.value))

    def snapshot(self, name: str) -> dict[str, Any]:
        """Everything the store knows of a circuit; {} for one that nobody used. Raises when Redis is away."""
        return self.snapshots([check_name(name)]).get(name, {})

    def snapshots(self, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """Snapshots of the named circuits, or of all, by name. Raises when Redis is away."""
        names = sorted(self._store.index()) if names is None else names
        now_ms = self._store.server_time_ms()
        rows = self._store.describe(names, now_ms)
        return {name: snapshot_of(fields, now_ms, self._policy(name)) for name, fields in rows.items()}

    def reset(self, name: str, *, actor: str, reason: str, epoch: int | None = None) -> bool:
        """Close a circuit and forget its failures. With `epoch`, only if it is still at that epoch; False if not.

        Raises when Redis is away: an operator's word must not get lost silently.
        """
        check_name(name)
        reply = self._store.reset(name, self._policy(name), f"reset by {actor}: {reason}"[:300], epoch)
        self._store.audit({
            "action": "reset", "circuit": name, "actor": actor, "reason": reason,
            "epoch": reply.epoch, "done": reply.granted,
        })  # fmt: skip
        self._learn(name, reply, actor)
        return reply.granted

    def audit(self, count: int = 50) -> list[dict[str, str]]:
        """The newest operator actions first."""
        return self._store.audit_entries(count)

    def close(self) -> None:
        """Send what waits, stop the watcher, close the connections."""
        self.flush()
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join(timeout=2 * POLL_S)
        self._store.close()

    # -- the view ----------------------------------------------------------------------------------------------

    def _epoch(self, name: str) -> int:
        if self._watcher is None:
            self._watch(name)
        view = self._views.get(name)
        return view.epoch if view is not None else 1

    def _watch(self, name: str) -> None:
        """First use in this process: look once, then be told."""
        check_name(name)
        with self._lock:
            if self._watcher is not None:
                return
            self._ask(self._refresh, lambda: None)
            self._watcher = threading.Thread(target=self._run_watcher, name="celeriac-circuits", daemon=True)
            self._watcher.start()

    def _run_watcher(self) -> None:
        subscription = None
        while not self._closing.is_set():
            try:
                if subscription is None:
                    subscription = self._store.listen()
                    self._refresh()
                for text in pushes(subscription, POLL_S / 2):
                    name, entry = parse_push(text)
                    self._views.see(name, entry)
                if self._store.version() != self._version:
                    self._refresh()
                self._returned()
                self._renew_probes()
            except STORE_ERRORS as error:
                self._left(error)
                if subscription is not None:
                    subscription.close()
                    subscription = None
                self._closing.wait(POLL_S / 2)
            except ValueError as error:
                # Words of a stranger, or of a newer release, must not end the thread that every view rests on.
                logger.warning("celeriac: circuits: something in Redis is not understood: %s", describe(error))
            self.flush()
        if subscription is not None:
            subscription.close()

    def _renew_probes(self) -> None:
        """A probe that takes longer than its lease keeps its permit as long as this process lives and holds it."""
        with self._lock:
            due = [permit for permit in self._probes if permit.renewal_is_due]
        for permit in due:
            permit.renewed_at = time.monotonic()
            self._store.admit(permit.name, self._policy(permit.name), permit.id, permit.lease_s)

    def _refresh(self) -> None:
        before = self._views.snapshot()
        version = self._store.version()
        self._views.refresh(before, self._store.index())
        self._version = version

    def _learn(self, name: str, reply: Reply, actor: str = "") -> None:
        self._views.see(name, IndexEntry(reply.state, reply.epoch, reply.remaining_ms))
        if reply.old is not None:
            self._bus.publish(
                CircuitChanged(
                    name,
                    reply.old.value,
                    reply.state.value,
                    reply.epoch,
                    reply.reason,
                    reply.remaining_ms / 1000,
                    actor,
                )
            )

    # -- without Redis -----------------------------------------------------------------------------------------

    def _ask(self, shared: Callable[[], T], alone: Callable[[], T]) -> T:
        """`shared()`, or `alone()` while the store is away. Only the watcher knocks while it is."""
        if self._away_since is None:
            try:
                return shared()
            except STORE_ERRORS as error:
                self._left(error)
        return alone()

    def _left(self, error: Exception) -> None:
        event: Event | None = None
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
                event = StoreAway(describe(error))
        if event is not None:
            self._bus.publish(event)

    def _returned(self) -> None:
        if self._away_since is None:
            return
        self._refresh()
        with self._lock:
            away_s, self._away_since = time.monotonic() - self._away_since, None
        self._alone.forget()
        self._version = -1  # look once more: an outcome that was counted alone just now may have touched a view
        self._bus.publish(StoreBack(away_s))
