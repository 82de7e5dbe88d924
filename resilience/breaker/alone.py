"""A process on its own: while Redis is away it counts for itself, with the same state machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from resilience.breaker import machine
from resilience.breaker.machine import Circuit, Outcome
from resilience.breaker.policy import BreakerPolicy, whole_ms
from resilience.breaker.store import NO_END, Reply
from resilience.breaker.view import View


class Alone:
    """Circuits of this process only; each starts from what the process last believed of the shared one."""

    def __init__(self, view: Callable[[str], View | None]) -> None:
        self._view = view
        self._circuits: dict[str, Circuit] = {}
        self._lock = threading.RLock()  # re-entered by a signal handler or a finalizer that settles too

    def record(self, name: str, policy: BreakerPolicy, outcome: Outcome, jitter: float) -> Reply:
        with self._lock:
            changed, transition = machine.record(self._circuit(name), outcome, policy, _now_ms(), jitter)
            self._circuits[name] = changed
        return _reply(changed, True, transition)

    def admit(self, name: str, policy: BreakerPolicy, permit_id: str, lease_s: float) -> Reply:
        with self._lock:
            circuit = self._circuit(name)
            changed, granted, transition = machine.admit(circuit, permit_id, whole_ms(lease_s), policy, _now_ms())
            self._circuits[name] = changed
        return _reply(changed, granted, transition)

    def forget(self) -> None:
        """The shared state counts again."""
        with self._lock:
            self._circuits.clear()

    def _circuit(self, name: str) -> Circuit:
        if name not in self._circuits:
            view = self._view(name)
            until_ms = 0 if view is None or view.ends_at is None else int(view.ends_at * 1000)
            self._circuits[name] = (
                Circuit() if view is None else Circuit(state=view.state, epoch=view.epoch, until_ms=until_ms)
            )
        return self._circuits[name]


def _now_ms() -> int:
    return int(time.monotonic() * 1000)


def _reply(circuit: Circuit, granted: bool, transition: machine.Transition | None) -> Reply:
    remaining_ms = max(0, circuit.until_ms - _now_ms()) if circuit.until_ms else NO_END
    old = transition.old if transition is not None else None
    return Reply(granted, circuit.state, circuit.epoch, remaining_ms, old, transition.reason if transition else "")
