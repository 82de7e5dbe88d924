"""What a turn brought and the worker does not want any more, because a signal came meanwhile."""

from __future__ import annotations

from contextlib import suppress

import pytest
from celery import Celery
from celery.worker import state as worker_state
from kombu import Consumer, Message

from resilience import Resilience
from resilience.delivery.held import Held
from resilience.delivery.holders import hold_as


def test_in_a_cold_stop_it_goes_back_in_one_step_with_what_is_older(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two steps another worker would find the youngest at the front of the queue, and take it first."""
    held, received = Held("celeriac", "w"), list[str]()

    def receive(message: Message) -> None:
        received.append(str(message.delivery_tag))

    with Celery("arrivals", broker=redis_url, set_as_current=False) as app:
        Resilience(app)
        app.conf.broker_transport_options = {"celeriac_owner": hold_as(held)}
        with app.connection_for_read() as connection:
            consumer = Consumer(connection, [app.amqp.queues["celery"]], on_message=receive)
            consumer.qos(prefetch_count=4)
            consumer.consume()
            for number in range(2):
                app.send_task("any", (number,))
            while len(received) < 2:
                connection.drain_events(timeout=5)
            for number in range(2):
                app.send_task("any", (number,))
            connection.transport.cycle.on_poll_start()  # it asks for more
            consumer.cancel()
            monkeypatch.setattr(worker_state, "should_terminate", True)
            with suppress(TimeoutError):
                connection.drain_events(timeout=1)
            assert [int(tag) - int(received[0]) for tag, *_ in held.settle().returned] == [3, 2, 1, 0]
