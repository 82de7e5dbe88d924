"""One circuit on both sides: `machine.py` and `circuit.lua` do each operation, and all that follows is compared.

Time and jitter are arguments on both sides, so equal means equal to the millisecond.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import redis

from resilience.breaker import machine
from resilience.breaker.machine import FORCED, Action, Circuit, Outcome, Transition
from resilience.breaker.policy import BreakerPolicy
from resilience.breaker.store import NO_END, CircuitStore, Order, Reply, numbers_of
from resilience.breaker.window import Tally
from resilience.shared_redis import SharedRedis
from tests.contract.written import Ledger

CLIENTS = 3

MakePair = Callable[..., "Pair"]

PATIENT = BreakerPolicy(consecutive_failures=10_000, minimum_calls=1_000_000, window_s=12, slow_call_s=1.0)
"""Its buckets are a second wide, and it never opens."""

KINDS = {
    "failure": Outcome(1, "w1", failure=True),
    "limited": Outcome(1, "w1", failure=True, limited=True),
    "slow": Outcome(1, "w1", 1, slow=1),
    "slow failure": Outcome(1, "w1", failure=True, slow_failure=True),
}


class Pair:
    """Empties the Redis at `url`. Every method raises AssertionError where the two sides differ."""

    def __init__(self, url: str, policy: BreakerPolicy, now_ms: int) -> None:
        self._clients = [redis.Redis.from_url(url, decode_responses=True) for _ in range(CLIENTS)]
        self._clients[0].flushdb()
        self._stores = cycle([CircuitStore(SharedRedis(client, "parity")) for client in self._clients])
        self._ledger = Ledger(self._clients[0], "parity", "a")
        self._used_policy = ""
        self.circuit = Circuit()
        self.policy, self.now = policy, now_ms

    def close(self) -> None:
        self._ledger.close()
        for client in self._clients:
            client.close()

    @property
    def total(self) -> Tally:
        """The calls in the window."""
        return machine.tally(self.circuit, self.policy)

    def admit(self, permit: str, lease_ms: int) -> bool:
        before = self._begun()
        self.circuit, granted, transition = machine.admit(before, permit, lease_ms, self.policy, self.now)
        reply = next(self._stores).admit("a", self.policy, permit, lease_ms / 1000, now_ms=self.now)
        self._compare(before, reply, granted, transition, lists=True)
        return granted

    def record(self, outcome: Outcome, jitter: float = 0.0) -> None:
        before = self._begun()
        self.circuit, transition = machine.record(before, outcome, self.policy, self.now, jitter)
        reply = next(self._stores).record("a", self.policy, outcome, jitter, now_ms=self.now)
        time_was_over = before.state in FORCED and 0 < before.until_ms <= self.now
        lists = outcome.epoch != before.epoch
        self._compare(before, reply, self.circuit is not before and not time_was_over, transition, lists=lists)

    def fail(self, worker: str = "w1", times: int = 1, jitter: float = 0.0) -> None:
        for _ in range(times):
            self.record(Outcome(self.circuit.epoch, worker, failure=True), jitter)

    def be_limited(self, worker: str = "w1", times: int = 1, jitter: float = 0.0) -> None:
        for _ in range(times):
            self.record(Outcome(self.circuit.epoch, worker, failure=True, limited=True), jitter)

    def settle(self, permit: str, result: str, worker: str = "w1", jitter: float = 0.0) -> None:
        """`result`: success, slow (a success that was), failure, limited or neutral."""
        self.record(
            Outcome(
                self.circuit.epoch, worker, int(result in ("success", "slow")), result in ("failure", "limited"),
                permit, slow=int(result == "slow"), limited=result == "limited",
            ),
            jitter,
        )  # fmt: skip

    def order(self, action: Action, ttl_ms: int | None = None, epoch_off_by: int | None = None) -> None:
        """An operator's word; with `epoch_off_by`, only if the circuit is at the epoch that he saw."""
        asked = None if epoch_off_by is None else self.circuit.epoch + epoch_off_by
        order = Order(action, "ann", "why", asked, None if ttl_ms is None else ttl_ms / 1000)
        before, transition, done = self._begun(), None, not epoch_off_by
        if done:
            self.circuit, transition = machine.obey(before, action, order.shown, ttl_ms or 0, self.now)
        reply = next(self._stores).order("a", self.policy, order, now_ms=self.now)
        self._ledger.ordered(order, ttl_ms or 0, self.circuit, done)
        self._compare(before, reply, done, transition, order.shown, lists=True)

    def stay_quiet_for_a_week(self) -> None:
        """Redis forgets the circuit, unless it is forced."""
        if self.circuit.state not in FORCED:
            self.evict_circuit()

    def evict_circuit(self) -> None:
        """The index remembers a forced state, and of any other one the epoch, so that it goes on from there."""
        if not (self._ledger.there and self._ledger.listed):
            return
        self._ledger.forget()
        now, self._used_policy = self.circuit, ""
        self.circuit = Circuit(epoch=now.epoch + 1)
        if now.state in FORCED:
            self.circuit = Circuit(now.state, now.epoch, now.until_ms, now.changed_ms)

    def evict_index(self) -> None:
        """Nothing but the index: running processes know their circuits, the next one to start does not."""
        if self._ledger.there:
            self._ledger.forget_index()

    def _begun(self) -> Circuit:
        """The circuit before an operation, on today's clock: that alone is no answer, and no outcome that counts."""
        self.circuit = machine.begun_by(self.circuit, self.now)
        return self.circuit

    def _compare(
        self, before: Circuit, reply: Reply, granted: bool, transition: Transition | None, order: str = "",
        *, lists: bool,
    ) -> None:  # fmt: skip
        used = self._used_policy if order else numbers_of(self.policy)
        assert reply == Reply(
            granted=granted,
            state=self.circuit.state,
            epoch=self.circuit.epoch,
            remaining_ms=max(0, self.circuit.until_ms - self.now) if self.circuit.until_ms else NO_END,
            old=transition.old if transition else None,
            reason=transition.reason if transition else "",
            former_policy=self._used_policy if used != self._used_policy else "",
        )
        self._used_policy = used
        if self._ledger.there or granted or not order:
            self._ledger.operated(before, self.circuit, transition.reason if transition else order, self.now, lists)
        self._ledger.check(self.circuit, used, self.now)
