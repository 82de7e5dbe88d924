"""The thread that keeps a process's views of the circuits true: pushed by the store, polled as a backstop."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

import redis

from resilience.breaker.alone import Alone
from resilience.breaker.link import Link
from resilience.breaker.permit import Permit
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import CircuitStore, parse_push, pushes
from resilience.breaker.view import Views
from resilience.shared_redis import STORE_ERRORS
from signals.redact import describe

TURN_S = 0.5

logger = logging.getLogger("celeriac")


class Watcher:
    """Starts with the first use of a circuit in its process. After each turn, twice a second, it calls `turns`."""

    def __init__(
        self, store: CircuitStore, link: Link, views: Views, alone: Alone, policy: Callable[[str], BreakerPolicy]
    ) -> None:
        self._store, self._link, self._views, self._alone, self._policy = store, link, views, alone, policy
        self._probes: weakref.WeakSet[Permit] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._subscription: redis.client.PubSub | None = None
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._looked = threading.Event()
        self._version = -1
        self.turns: list[weakref.WeakMethod[Callable[[], None]]] = []
        self.started = False

    def start(self) -> None:
        """First use in this process: look once, then be told. Waits for the first look at most a store timeout.

        The look is the thread's, so that a slow handshake or name server holds nobody up for longer.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="celeriac-circuits", daemon=True)
                self._thread.start()
        self._looked.wait(self._link.timeout_s)
        self.started = True

    def abandon(self) -> None:
        """Nobody uses these circuits any more: the thread ends by itself, and its connections. Waits for nothing."""
        self._closing.set()
        self._wake()

    def keep(self, probe: Permit) -> None:
        """Renew this permit's lease for as long as somebody in this process holds it unsettled."""
        with self._lock:
            self._probes.add(probe)

    def close(self) -> None:
        """Stop at once, also in the middle of waiting for a push."""
        self._closing.set()
        if self._thread is None:
            return
        while self._thread.is_alive():
            self._wake()
            self._thread.join(timeout=0.05)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._turn()
            except STORE_ERRORS as error:
                if not self._closing.is_set():
                    self._link.left(error)
                self._looked.set()
                self._unsubscribe()
                self._closing.wait(TURN_S)
            except ValueError as error:
                # Words of a stranger, or of a newer release, must not end the thread that every view rests on.
                logger.warning("celeriac: circuits: something in Redis is not understood: %s", describe(error))
            self._call_turns()
        self._unsubscribe()

    def _call_turns(self) -> None:
        for reference in self.turns:
            try:
                turn = reference()
                if turn is not None:
                    turn()
                del turn  # between turns this thread keeps nobody alive
            except Exception as error:  # noqa: BLE001, PERF203  whatever it is, every view rests on this thread
                logger.warning("celeriac: circuits: %s", describe(error))

    def _turn(self) -> None:
        if self._subscription is None:
            self._subscription = self._store.listen()
            self._refresh()
            self._looked.set()
        told = 0
        for text in pushes(self._subscription, TURN_S):
            name, entry = parse_push(text)
            self._views.see(name, entry)
            told += 1
        if self._link.away:
            self._come_back()
        elif (version := self._store.version()) == self._version + told:
            self._version = version  # every transition since the last look was pushed: no need to read all circuits
        else:
            self._refresh()
        self._renew_probes()

    def _come_back(self) -> None:
        self._store.knock()
        self._refresh()
        self._link.returned()
        self._alone.forget()
        self._version = -1  # look once more: an outcome that was counted alone just now may have touched a view

    def _refresh(self) -> None:
        before = self._views.snapshot()
        version = self._store.version()
        self._views.refresh(before, self._store.index())
        self._version = version

    def _renew_probes(self) -> None:
        """A probe that takes longer than its lease keeps its permit as long as this process lives and holds it.

        And as long as its half-open time lasts: asking on behalf of an older one would take a place in the next.
        """
        with self._lock:
            due = [permit for permit in self._probes if permit.renewal_is_due]
        for permit in due:
            view = self._views.get(permit.name)
            if view is None or view.epoch != permit.epoch:
                continue
            permit.renewed_at = time.monotonic()
            self._store.admit(permit.name, self._policy(permit.name), permit.id, permit.lease_s)

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def _wake(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child has only a copy of the socket, and to shut that down would cut the parent off
        subscription = self._subscription
        connection = subscription.connection if subscription is not None else None
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):  # the thread closed it a moment ago, which is what is wanted
                sock.shutdown(socket.SHUT_RDWR)
