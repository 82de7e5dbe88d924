"""A broker that is away is tried each second, and told of, and given up, at the pace that kombu's settings ask for."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from resilience.delivery.transport import Connection
from resilience.local.ports import LOOPBACK, free_port
from resilience.local.redis_server import RedisServer


def test_attempts_are_told_at_the_pace_asked_for_and_given_up_after_as_many_as_asked_for() -> None:
    told: list[float] = []
    with (
        Connection(f"redis://{LOOPBACK}:{free_port()}/0") as connection,
        pytest.raises(OperationalError, match="refused"),
    ):
        connection.ensure_connection(
            lambda _error, pause: told.append(pause), 3, interval_start=0.3, interval_step=0.2, interval_max=0.5
        )
    assert told == [0.3, 0.5, 0.5]


def test_a_broker_that_comes_back_is_found_between_two_tellings() -> None:
    told: list[float] = []
    port = free_port()
    server = RedisServer(port=port)
    attempts = 0

    def comes_back() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            server.start()

    try:
        with Connection(f"redis://{LOOPBACK}:{port}/0") as connection:
            connection.ensure_connection(
                lambda _error, pause: told.append(pause), 100, interval_start=60, interval_max=60, callback=comes_back
            )
            assert connection.connected
    finally:
        server.stop()
    assert told == [60], "kombu alone would sleep for a minute now"
