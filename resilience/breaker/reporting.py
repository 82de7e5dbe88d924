"""What `Breakers` does with the outcome of a call: count it with others, report it, or count it alone while the store
is away; and what every reply of the store teaches about a circuit."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from resilience.breaker.alone import Alone
from resilience.breaker.link import Link
from resilience.breaker.machine import Outcome, State
from resilience.breaker.owed import Owed
from resilience.breaker.pending import Pending
from resilience.breaker.permit import Ending, as_result
from resilience.breaker.policies import Policies
from resilience.breaker.policy import check_name
from resilience.breaker.store import CircuitStore, IndexEntry, Reply, Report
from resilience.breaker.view import View, Views
from resilience.errors.taxonomy import ErrorCategory, Row
from resilience.identity import owner
from signals.bus import Bus
from signals.events import CircuitChanged, Result

_TOGETHER = 100
"""Circuits reported in one round trip: some milliseconds of the server's time."""


class Reporting:
    """Half of `Breakers`."""

    link: Link
    _store: CircuitStore
    _bus: Bus
    _policy: Policies
    _matrix: Mapping[ErrorCategory, Row]
    _views: Views
    _alone: Alone
    _pending: Pending
    _owed: Owed

    def _view(self, name: str) -> View | None:
        raise NotImplementedError

    def record_success(self, name: str, runtime_s: float | None = None) -> None:
        """Count a success that was not admitted here; of `runtime_s` seconds, if they are known."""
        self.settle(check_name(name), self._epoch(name), "", Result.SUCCESS, runtime_s)

    def record_failure(self, name: str, error: BaseException | None = None, runtime_s: float | None = None) -> None:
        """Count a failure; with `error`, only if its category counts against this circuit."""
        ending: Ending = Result.FAILURE if error is None else error
        self.settle(check_name(name), self._epoch(name), "", ending, runtime_s)

    def settle(self, name: str, epoch: int, permit_id: str, ending: Ending, runtime_s: float | None = None) -> None:
        """Report an outcome admitted under `epoch`. Successes wait for company up to 0.1 s; failures go at once."""
        if ending is None and not permit_id and self._pending.joins(name, epoch, runtime_s):
            return
        outcome = self._outcome(name, epoch, permit_id, ending, runtime_s)
        if outcome is not None:
            self._report(name, outcome)

    def settle_at_once(
        self, name: str, epoch: int, permit_id: str, ending: Ending, runtime_s: float | None = None
    ) -> Callable[[], None] | None:
        """The same without I/O: what is left to do and may wait for the store, or None."""
        if ending is None and not permit_id and self._pending.joins(name, epoch, runtime_s):
            return None
        outcome = self._outcome(name, epoch, permit_id, ending, runtime_s)
        return None if outcome is None else functools.partial(self._report, name, outcome)

    def settle_lost(self, name: str, permit_id: str, ending: Ending, worker: str | None = None) -> None:
        """Report an attempt whose process died, in the name of `worker`; its permit is known by its id only."""
        if worker is not None:
            self.flush()  # the successes that wait here are this process's own
        view = self._view(name)
        probing = view is not None and view.state is State.HALF_OPEN
        outcome = self._outcome(name, self._epoch(name), permit_id if probing else "", ending, None)
        if outcome is not None:
            self._report(name, replace(outcome, worker=worker or outcome.worker))

    def flush(self) -> None:
        """Send the successes that wait for company, and what the store did not hear while it was away."""
        waiting = [
            Report(name, self._policy(name), Outcome(epoch, owner(), count, slow=slow), _jitter())
            for name, (epoch, count, slow) in self._pending.take_all().items()
        ]
        if self._owed and not self.link.away:
            owed = self._owed.take(self._epoch)
            waiting += [Report(name, self._policy(name), outcome, _jitter()) for name, outcome in owed]
        for first in range(0, len(waiting), _TOGETHER):
            self._report_all(waiting[first : first + _TOGETHER])

    def _outcome(
        self, name: str, epoch: int, permit_id: str, ending: Ending, runtime_s: float | None
    ) -> Outcome | None:
        """What is to be reported now, the successes that waited included; None if nothing is."""
        view = self._views.get(name)
        if view is not None and (epoch < view.epoch or view.deaf):
            if self.link.away:  # it moved on in this process alone: to the others this is a probe still under way
                self._owed.give_back(name, permit_id)
            return None  # the circuit moved on, or does not listen
        policy = self._policy(name)
        result = as_result(ending, policy, self._matrix)
        slow = runtime_s is not None and policy.is_slow(runtime_s)
        if permit_id:
            success = result is Result.SUCCESS
            failure = result in (Result.FAILURE, Result.LIMITED)
            return Outcome(
                epoch, owner(), int(success), failure, permit_id,
                slow=int(success and slow), limited=result is Result.LIMITED, slow_failure=failure and slow,
            )  # fmt: skip
        if result is Result.NOTHING:
            return None
        if result is Result.SUCCESS:
            due = self._pending.add(name, epoch, slow, policy.slow_call_s)
            return Outcome(epoch, owner(), due[0], slow=due[1]) if due else None
        count, slow_ones = self._pending.take(name, epoch)
        return Outcome(
            epoch, owner(), count, failure=True, slow=slow_ones, limited=result is Result.LIMITED, slow_failure=slow
        )

    def _report(self, name: str, outcome: Outcome) -> None:
        policy = self._policy(name)
        jitter = _jitter()
        reply = self.link.ask(
            lambda: self._store.record(name, policy, outcome, jitter),
            lambda: self._record_alone(Report(name, policy, outcome, jitter)),
            f"circuit {name}",
        )
        self._learn(name, reply)

    def _report_all(self, reports: list[Report]) -> None:
        """In one round trip, so that the watcher is soon back at its pushes."""
        replies = self.link.ask(
            lambda: self._store.record_all(reports),
            lambda: [self._record_alone(report) for report in reports],
        )
        for report, reply in zip(reports, replies, strict=True):
            self._learn(report.name, reply)

    def _record_alone(self, report: Report) -> Reply:
        self._owed.note(report.name, report.outcome)
        return self._alone.record(*report)

    def _epoch(self, name: str) -> int:
        view = self._view(name)
        return view.epoch if view is not None else 1

    def _learn(self, name: str, reply: Reply, actor: str = "") -> None:
        self._views.see(name, IndexEntry(reply.state, reply.epoch, reply.remaining_ms))
        if reply.former_policy:
            self._policy.differs(name, reply.former_policy)
        if reply.old is not None:
            lasts_s = max(0, reply.remaining_ms) / 1000
            old, new = reply.old.value, reply.state.value
            self._bus.publish(CircuitChanged(name, old, new, reply.epoch, reply.reason, lasts_s, actor))


def _jitter() -> float:
    return random.random()  # noqa: S311  spreads probes, protects nothing
