"""A worker's pulse: a thread with its own connection that says "alive", and takes over from those that stopped.

Its subscription dies with the process, so the server itself witnesses a SIGKILL within milliseconds. Whoever finds a
dead worker tells what it was running, gives back what it held; other rooms register what must be done every beat.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from resilience.delivery.broker import BROKER_ERRORS, Broker
from resilience.delivery.claims import Claims, Inquest
from resilience.delivery.deaths import Condemn
from resilience.delivery.held import Held
from resilience.delivery.refusals import is_no_primary, is_refusal
from resilience.delivery.unacked import Unacked
from resilience.workers.alarm import Alarm
from resilience.workers.registry import Beat, Registry
from resilience.workers.running import RunningAttempt, unpacked
from signals.bus import Bus
from signals.events import WorkerDied
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.settings import Settings

KNOWN_WITHIN_S = 5.0
"""How long a worker that begins waits to be known; then it works all the same."""

logger = logging.getLogger("celeriac")

SAY_EVERY_S = 10.0

SPREAD_S = 0.03
"""Who looks again when somebody will be late enough does not do it at the very instant at which all others do."""

Chore = Callable[[Broker, float], object]
"""Upkeep done every beat: gets the broker and the seconds since its last call."""

TellLost = Callable[[str, RunningAttempt, bool], None]
"""Takes a dead worker, an attempt that it did not end, and whether the worker was being stopped."""


def _never_due(_broker: Broker) -> float:
    return math.inf


class Pulse:
    """Started in a worker's main process. `connect` makes a fresh broker client; chores run between beats.

    `when_due` is called after every beat, and in between at the monotonic time that its last call returned.
    `running` writes down what this worker runs now (see `running.py`); `tell_lost` hears of what a dead one ran.
    """

    def __init__(
        self,
        owner: str,
        settings: Settings,
        bus: Bus,
        connect: Callable[[], Broker],
        running: Callable[[], str],
        tell_lost: TellLost,
        condemn: Condemn,
        held: Held | None = None,
    ) -> None:
        self.owner = owner
        self._held = held
        self._condemn = condemn
        self.alarm = Alarm()
        self._running = running
        self._tell_lost = tell_lost
        self._settings = settings
        self._bus = bus
        self._connect = connect
        self._known = False
        self._described = False
        self._said_at = -math.inf
        self._renewed_at: float | None = None
        self._info: dict[str, Any] = {}
        self._chores: list[Chore] = []
        self.when_due: Callable[[Broker], float] = _never_due
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._first_beat = threading.Event()
        self._witness: Any = None
        reference = weakref.ref(self)

        def let_go_in_child() -> None:
            pulse = reference()
            if pulse is not None:
                pulse._let_go()  # noqa: SLF001  a closure of this very class

        os.register_at_fork(after_in_child=let_go_in_child)

    def every_beat(self, chore: Chore) -> None:
        self._chores.append(chore)

    def start(self, info: dict[str, Any]) -> None:
        """Beat from now on; `info` is what others may know of this worker. Starting twice changes the info only."""
        self._info = info
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celeriac-pulse", daemon=True)
            self._thread.start()
            # Be known, and witnessed, before the first message is held: whoever dies unknown leaves its messages to
            # nobody, and whoever is known without a witness is taken for dead if it is slow to begin.
            if not self._first_beat.wait(KNOWN_WITHIN_S):
                logger.warning("celeriac: not registered within %g s; the pulse goes on trying", KNOWN_WITHIN_S)

    def beat_now(self) -> None:
        """What is running changed in a way that others must know before anything else happens."""
        self.alarm.beat_now()

    def stop(self) -> None:
        """Say goodbye: the last thing a worker does, when it holds nothing any more."""
        self._stopping.set()
        self.alarm.beat_now()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        connected_before = False
        while not self._stopping.is_set():
            try:
                broker = self._connect()
                try:
                    self._live(broker, reconnected=connected_before)
                finally:
                    self._witness = None
                    broker.close()
            except BROKER_ERRORS as error:  # noqa: PERF203  the loop is what must go on
                connected_before = True
                self._not_renewed()
                self._say_now_and_then("pulse lost its connection (%s); again in a moment", error)
                self._stopping.wait(0.2)
            except Exception:
                logger.exception("celeriac: pulse failed; it starts anew, the worker works on")
                self._stopping.wait(1.0)

    def _say_now_and_then(self, sentence: str, error: BaseException) -> None:
        """At once, and seldom while it lasts: it is tried again several times a second."""
        if time.monotonic() - self._said_at > SAY_EVERY_S:
            self._said_at = time.monotonic()
            logger.warning(f"celeriac: {sentence}", describe(error))

    def _live(self, broker: Broker, reconnected: bool) -> None:
        registry = Registry(broker, self._settings.namespace)
        unacked = Unacked(broker, self._settings.namespace)
        subscription = broker.client.pubsub(ignore_subscribe_messages=True)
        try:
            subscription.subscribe(registry.channel(self.owner))
            subscription.get_message(timeout=1.0)
            self._witness = subscription
            self._described = False
            last = time.monotonic()
            said = ""
            while not self._stopping.is_set():
                self.alarm.begin()
                running = self._running()
                began = time.monotonic()
                beat = self._beat(registry, running if running != said else "", reconnected)
                now = time.monotonic()
                next_beat = now + self._settings.beat_s * (0.9 + 0.2 * random.random())  # noqa: S311  spreads beats
                if beat is not None:
                    self._renewed(beat, began, registry)
                    self._first_beat.set()
                    reconnected, said = False, running
                    burials = self._burials(beat.suspects, registry, unacked, Claims(broker))
                    self._do_chores(broker, now - last, [*burials, *self._chores])
                    last = now
                    if beat.look_in_s is not None:
                        next_beat = min(next_beat, now + beat.look_in_s + SPREAD_S * random.random())  # noqa: S311  the same
                self._pause(broker, next_beat)
                subscription.get_message(timeout=0.0)  # a cut subscription is noticed here and made anew
            self._say_goodbye(registry, Claims(broker))
        finally:
            subscription.close()

    def _beat(self, registry: Registry, running: str, reconnected: bool) -> Beat | None:
        """One beat. None: the server is there and does not take it now; the subscription goes on saying "alive"."""
        try:
            if not self._described:
                registry.describe_self(self.owner, self._info)
                self._described = True
            return registry.beat(
                self.owner, self._settings.gone_s, self._settings.silent_s, reconnected, running, self._known
            )
        except redis.ResponseError as error:
            flushed = isinstance(error, redis.exceptions.NoScriptError)  # for the second time in one call
            if is_no_primary(error) or not (flushed or is_refusal(error)):
                raise
            self._say_now_and_then("Redis refuses its pulse (%s); it goes on asking", error)
            return None

    def _renewed(self, beat: Beat, began: float, registry: Registry) -> None:
        """The server knows of this beat, sent at `began`; a worker that was taken for dead holds nothing any more."""
        self._known, self._renewed_at = True, began
        if self._held is not None:
            self._held.lease_until = -math.inf if beat.forgotten else began + self._settings.silent_s
        if beat.forgotten:
            logger.warning("celeriac: others took this worker for dead: it drops what it has not begun")
            registry.describe_self(self.owner, self._info)

    def _not_renewed(self) -> None:
        """Without a connection it is taken for dead much earlier than when it is only silent."""
        if self._held is not None and self._renewed_at is not None:
            self._held.lease_until = min(self._held.lease_until, self._renewed_at + self._settings.gone_s)
            self._renewed_at = None

    def _pause(self, broker: Broker, next_beat: float) -> None:
        """Until the next beat; what is due before it is done in between."""
        while not self._stopping.is_set():
            self._do_chores(broker, 0.0, [lambda broker, _elapsed_s: self.alarm.ring(self.when_due(broker))])
            if self.alarm.wait(next_beat):
                return

    def _say_goodbye(self, registry: Registry, claims: Claims) -> None:
        """Leave nothing behind; a worker that could not hand something back stays known, so that it is found dead."""
        mine = Held(self._settings.namespace, self.owner)
        if not claims.any_of(mine):
            claims.forget(mine)
            registry.remove(self.owner)

    def _burials(self, suspects: list[str], registry: Registry, unacked: Unacked, claims: Claims) -> list[Chore]:
        def burial(dead: str) -> Chore:
            return lambda _broker, _elapsed_s: self._take_over(dead, registry, unacked, claims)

        return [burial(suspect) for suspect in suspects]

    def _do_chores(self, broker: Broker, elapsed_s: float, chores: list[Chore]) -> None:
        for chore in chores:
            try:
                chore(broker, elapsed_s)
            except redis.ResponseError as error:  # noqa: PERF203  each chore is on its own
                # The server answered, so the connection is well: a reconnect would mend nothing.
                logger.warning("celeriac: upkeep was refused by Redis, the pulse goes on: %s", describe(error))
            except BROKER_ERRORS:
                raise
            except Exception as error:
                detail = logger.isEnabledFor(logging.DEBUG)
                logger.warning("celeriac: upkeep failed, the pulse goes on: %s", describe(error), exc_info=detail)

    def _take_over(self, dead: str, registry: Registry, unacked: Unacked, claims: Claims) -> None:
        estate = registry.condemn(dead, self.owner, self._settings.gone_s, self._settings.silent_s)
        if estate is None:
            return
        held = Held(self._settings.namespace, dead)
        ran = self._ran(dead, estate.running)
        # First: the next run of an attempt asks for its permit under the same id.
        self._tell_of(dead, ran, estate.stopping, {*unacked.tags(dead), *claims.tags(held)})
        begun = claims.begun(held).union(attempt.tag for attempt in ran)
        inquest = Inquest(begun, self._settings.poison_deaths, self._condemn)
        moved = unacked.give_back(dead) + claims.give_back(held, None if estate.stopping else inquest)
        claims.forget(held)
        registry.remove(dead)
        self._bus.publish(WorkerDied(dead, moved, self.owner))

    def _ran(self, dead: str, running: str) -> tuple[RunningAttempt, ...]:
        try:
            return unpacked(running or "[false,[]]").attempts
        except ValueError as error:
            logger.warning("celeriac: what %s ran is not known: %s", dead, describe(error))
            return ()

    def _tell_of(self, dead: str, ran: tuple[RunningAttempt, ...], stopping: bool, held: set[str]) -> None:
        """Tell what `dead` did not end: of what its last beat named, all but the messages acknowledged since."""
        for attempt in ran:
            if not attempt.tag or attempt.tag in held:
                self._tell_lost(dead, attempt, stopping)

    def _let_go(self) -> None:
        """In a forked child: close its copy of the subscription's socket, or it would witness for a dead parent."""
        connection = getattr(self._witness, "connection", None)
        if connection is not None and connection._sock is not None:  # noqa: SLF001  no public way to drop a socket
            connection._sock.close()  # noqa: SLF001
        self._witness = None
        self._thread = None
