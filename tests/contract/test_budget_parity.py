"""One retry budget, two implementations: `budget.py` and `budget.lua` on a real Redis answer every operation alike.

Hypothesis invents the histories. Time is an argument on both sides, so equal means equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from resilience.local.redis_server import RedisServer
from resilience.retry import budget
from resilience.retry.budget import BUCKET_MS, BUCKETS, Budget, BudgetRule
from resilience.shared_redis import SharedRedis

_RULES = st.builds(BudgetRule, st.sampled_from([0, 0.1, 0.2, 1 / 3, 0.7, 2]), st.sampled_from([0, 0.1, 0.3, 1, 1.7]))
_WINDOW_MS = BUCKETS * BUCKET_MS


class Twins(RuleBasedStateMachine):
    """The same operations on the value and on the script; every answer and both sums are compared."""

    client: ClassVar[redis.Redis]
    numbers: ClassVar[Iterator[int]] = count()

    @initialize(rule=_RULES, start_ms=st.integers(0, 2_000_000_000_000))
    def begin(self, rule: BudgetRule, start_ms: int) -> None:
        self.shared = SharedRedis(self.client, "parity")
        self.shared.load("resilience.retry", "budget.lua")
        self.key = f"parity:v1:budget:circuit{next(self.numbers)}"
        self.rule, self.now = rule, start_ms
        self.budget = Budget()

    @rule(rule=_RULES)
    def change_the_rule(self, rule: BudgetRule) -> None:
        self.rule = rule

    @rule(
        step=st.one_of(
            st.integers(0, 3 * BUCKET_MS),
            st.sampled_from([1, -1, BUCKET_MS, -BUCKET_MS, _WINDOW_MS - 1, _WINDOW_MS, _WINDOW_MS + BUCKET_MS]),
            st.sampled_from([-_WINDOW_MS, -_WINDOW_MS - BUCKET_MS, -10 * _WINDOW_MS, 10 * _WINDOW_MS]),
        )
    )
    def wait(self, step: int) -> None:
        self.now = max(0, self.now + step)

    @rule(calls=st.integers(1, 40))
    def be_called(self, calls: int) -> None:
        self.budget = budget.count(self.budget, calls, self.now)
        self._compare([0, *self._sums()], calls, ask=False)

    @rule(times=st.integers(1, 8), calls=st.integers(0, 3))
    def retry_in_a_row(self, times: int, calls: int) -> None:
        for _ in range(times):
            if calls:
                self.budget = budget.count(self.budget, calls, self.now)
            self.budget, granted = budget.ask(self.budget, self.rule, self.now)
            self._compare([int(granted), *self._sums()], calls, ask=True)

    @rule(ahead=st.integers(0, 2 * _WINDOW_MS))
    def be_refused_by_a_clock_ahead(self, ahead: int) -> None:
        kept, self.rule = self.rule, BudgetRule(0, 0)
        self.now += ahead
        self.budget, granted = budget.ask(self.budget, self.rule, self.now)
        self._compare([int(granted), *self._sums()], 0, ask=True)
        self.now -= ahead
        self.rule = kept

    def _sums(self) -> tuple[int, int]:
        now = budget.count(self.budget, 0, self.now)
        return sum(now.calls), sum(now.retries)

    def _compare(self, expected: list[int], calls: int, ask: bool) -> None:
        args = [self.now, calls, int(ask), self.rule.ratio, self.rule.per_s]
        assert self.shared.run("budget.lua", [self.key], args) == expected
        assert self.client.pttl(self.key) != -1, "it dies by itself"


@pytest.mark.timeout(120)
def test_the_value_and_the_script_answer_alike(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url(), decode_responses=True) as client:
        client.flushall()
        Twins.client = client
        run_state_machine_as_test(
            Twins,
            settings=settings(
                max_examples=150,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
