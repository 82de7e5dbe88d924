"""Eager runs: admitted and counted like any other, never moved or retried, and possible without any Redis."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import redis
from celery import Celery

from resilience import CircuitOpenError, Resilience
from resilience.testing import until

TIMEOUT_S = 0.25
BOUND_S = TIMEOUT_S + 1.0  # room for a busy machine; two waits in each of 21 runs would take ten seconds


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An app as a unit test of its project makes it."""
    made = Celery("unit", broker=redis_url, set_as_current=False)
    made.conf.update(
        resilience_breaker={"consecutive_failures": 2, "open_s": 0.3, "success_threshold": 1, "ramp_s": 0},
        resilience_circuits={"long": {"consecutive_failures": 2}},
    )
    Resilience(made)

    @made.task(name="ask", circuit="long", fallback=["fallback"], shared=False)
    def ask(answer: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    @made.task(name="ask_briefly", circuit="brief", shared=False)
    def ask_briefly() -> str:
        return "fine"

    yield made
    made.resilience.breakers.close()
    made.close()


def test_an_open_circuit_raises_into_an_eager_run_and_no_message_goes_anywhere(app: Celery, redis_url: str) -> None:
    ask = app.tasks["ask"]
    for _ in range(2):
        assert isinstance(ask.apply((ConnectionError("nobody there"),)).result, ConnectionError)
    refused = ask.apply(("answer",))
    assert refused.state == "FAILURE"
    assert isinstance(refused.result, CircuitOpenError)
    with pytest.raises(CircuitOpenError, match="circuit long is open"):
        ask.apply(("answer",), throw=True)
    assert app.resilience.breakers.snapshot("long")["opens"] == 1
    with redis.Redis.from_url(redis_url) as client:
        assert not [key for key in client.scan_iter() if b":v1:" not in key], "no queue was touched"
    assert not app.resilience.runner._permits


def test_an_eager_run_is_a_probe_like_any_other(app: Celery) -> None:
    breakers = app.resilience.breakers
    for _ in range(2):
        breakers.record_failure("brief")
    assert breakers.get_state("brief") == "open"
    until(lambda: breakers.may_pass("brief"), what="it may be probed")
    assert app.tasks["ask_briefly"].apply().get() == "fine"
    assert breakers.get_state("brief") == "closed"


def test_the_refusal_of_an_inner_run_is_no_failure_of_the_outer_ones_circuit(app: Celery) -> None:
    breakers = app.resilience.breakers
    for _ in range(2):
        breakers.record_failure("long")

    @app.task(name="outer", circuit="outer", shared=False)
    def outer() -> object:
        return app.tasks["ask"].apply(("answer",), throw=True)

    assert isinstance(outer.apply().result, CircuitOpenError)
    assert not breakers.snapshot("outer")


UNIT_TESTS = """
    import json, sys, time
    from celery import Celery
    from resilience import Resilience
    from resilience.testing import RecordingSink

    app = Celery("unit", broker=sys.argv[1])
    res, sink = Resilience(app), RecordingSink()
    res.bus.subscribe(sink)

    @app.task
    def double(number):
        if number is None:
            raise ConnectionError("nobody there")
        return 2 * number

    took_s = []
    for number in [*range(20), None]:
        began = time.monotonic()
        result = double.apply((number,))
        took_s.append(time.monotonic() - began)
        assert result.result == 2 * number if number is not None else result.failed(), result
    print(json.dumps([took_s, [event.kind for event in sink.events]]))
"""


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    """A port where nobody listens: bound, so that nobody else takes it."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize("port", [closed_port, silent_server])
def test_unit_tests_of_a_project_run_eagerly_without_a_redis_and_wait_for_it_once(port: object) -> None:
    with port() as number:  # type: ignore[operator]
        argv = [sys.executable, "-c", textwrap.dedent(UNIT_TESTS), f"redis://127.0.0.1:{number}/0"]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    took_s, events = json.loads(ran.stdout)
    assert max(took_s) < BOUND_S
    assert sorted(took_s)[-2] < TIMEOUT_S, "one of them waited"
    assert sum(took_s) < BOUND_S + 1.0
    assert events == ["store-away"]
