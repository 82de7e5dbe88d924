"""A task and a call inside it through the same circuit are one call: counted once, and no probe blocks itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from resilience import BreakerPolicy, Resilience, with_retry
from resilience.testing import until

POLICY = {"consecutive_failures": 1, "open_s": 0.1, "half_open_permits": 1, "success_threshold": 1, "ramp_s": 0}


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    made = Celery("nested", broker=redis_url, set_as_current=False)
    made.conf.resilience_circuits = {"dep": POLICY, "other": POLICY}
    resilience = Resilience(made)
    yield made
    resilience.breakers.close()
    made.close()


def task_that_calls(app: Celery, circuit: str, fail: bool = False) -> Any:
    breakers = app.resilience.breakers  # type: ignore[attr-defined]

    @app.task(circuit="dep", shared=False, name=f"nested.{circuit}.{fail}")
    def outer() -> str:
        @with_retry(circuit=breakers.circuit(circuit), attempts=1)
        def inner() -> str:
            if fail:
                raise ConnectionError("down")
            return "answer"

        with breakers.circuit(circuit):
            return inner()

    return outer


def test_the_only_probe_may_call_through_its_own_circuit(app: Celery) -> None:
    breakers = app.resilience.breakers  # type: ignore[attr-defined]
    breakers.record_failure("dep")
    until(lambda: breakers.may_pass("dep"), within_s=2, what="it may be probed")
    assert task_that_calls(app, "dep").apply().get() == "answer"
    assert breakers.get_state("dep") == "closed"


def test_its_failure_counts_once(app: Celery) -> None:
    breakers = app.resilience.breakers  # type: ignore[attr-defined]
    breakers.circuit("dep", BreakerPolicy(consecutive_failures=100))
    with pytest.raises(ConnectionError):
        task_that_calls(app, "dep", fail=True).apply().get()
    assert (breakers.snapshot("dep")["calls"], breakers.snapshot("dep")["failures"]) == (1, 1)


def test_a_call_through_another_circuit_is_its_own(app: Celery) -> None:
    breakers = app.resilience.breakers  # type: ignore[attr-defined]
    assert task_that_calls(app, "other").apply().get() == "answer"
    breakers.flush()
    assert breakers.snapshot("other")["calls"] == 2, "the with block and the retried call"
    with breakers.circuit("dep"):
        pass
    breakers.flush()
    assert breakers.snapshot("dep")["calls"] == 2, "after the task a call is a call again"
