"""The parking place on a real Redis: messages wait in plain queues and go home oldest first, at a bounded rate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu import Connection

from resilience import Breakers
from resilience.delivery.broker import Broker
from resilience.recovery.parking import FRESH_S, REINDEX_S, Parking
from resilience.router import plain_queue
from resilience.testing import WorkerProcess, until

CIRCUIT = "openai"
FEEDING = Path(__file__).parent.parent / "foreign" / "feeding"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("parking", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    yield app
    app.close()


@pytest.fixture
def broker(app: Celery) -> Iterator[Broker]:
    with closing(Broker(app)) as broker:
        yield broker


@pytest.fixture
def parking(app: Celery) -> Parking:
    return _parking(app)


def _parking(app: Celery, rate: float = 100.0) -> Parking:
    return Parking("celeriac", rate, lambda: Broker(app))


def _send(app: Celery, queue: str, *bodies: str, priority: int = 0) -> None:
    connection: Connection
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for body in bodies:
            producer.publish(
                body, exchange="", routing_key=queue, declare=[plain_queue(queue)], priority=priority, serializer="json"
            )


def _received(app: Celery, queue: str, most: int | None = None) -> list[str]:
    """What a consumer of `queue` gets, in its order."""
    with app.connection_for_read() as connection:
        source = plain_queue(queue).bind(connection.default_channel)
        messages = iter(lambda: source.get(no_ack=True), None)
        return [message.payload for message in islice(messages, most)]


def _yes(_circuit: str) -> bool:
    return True


def _no(_circuit: str) -> bool:
    return False


def _all(_circuit: str) -> float:
    return 1.0


def test_the_queues_name_tells_circuit_and_home(parking: Parking) -> None:
    assert parking.queue_for("celery", CIRCUIT) == "celeriac.parked.openai|celery"


def test_nothing_moves_while_the_circuit_refuses(app: Celery, broker: Broker, parking: Parking) -> None:
    _send(app, parking.queue_for("celery", CIRCUIT), "1", "2")
    assert parking.release(broker, _yes, _all, 1.0) == 0
    assert _received(app, "celery") == []


def test_parked_messages_go_home_oldest_first_and_before_what_is_newer(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    _send(app, parking.queue_for("celery", CIRCUIT), "1", "2", "3")
    _send(app, "celery", "newer")
    assert parking.release(broker, _no, _all, 1.0) == 3
    assert _received(app, "celery") == ["1", "2", "3", "newer"]
    assert broker.client.keys("*parked.*") == []


def test_each_message_goes_to_its_own_home_with_its_priority(app: Celery, broker: Broker, parking: Parking) -> None:
    _send(app, parking.queue_for("celery", CIRCUIT), "plain")
    _send(app, parking.queue_for("celery", CIRCUIT), "urgent", priority=9)
    _send(app, parking.queue_for("mail", CIRCUIT), "letter")
    assert parking.release(broker, _no, _all, 1.0) == 3
    assert broker.client.llen("shop:celery\x06\x169") == 1
    assert set(_received(app, "celery")) == {"plain", "urgent"}
    assert _received(app, "mail") == ["letter"]


def test_only_the_circuit_that_passes_is_released(app: Celery, broker: Broker, parking: Parking) -> None:
    _send(app, parking.queue_for("celery", "a"), "of a")
    _send(app, parking.queue_for("celery", "b"), "of b")
    assert parking.release(broker, lambda circuit: circuit != "b", _all, 1.0) == 1
    assert _received(app, "celery") == ["of b"]


@pytest.mark.parametrize(("rate", "beats", "moved"), [(10, [1.0, 1.0, 1.0], [10, 10, 5]), (10, [0.5, 0.5], [5, 5]),
                                                      (0.5, [1.0, 1.0, 1.0, 1.0], [0, 1, 0, 1]),
                                                      (4, [60.0], [4])])  # fmt: skip
def test_the_rate_bounds_what_moves_also_below_one_a_second(
    app: Celery, broker: Broker, rate: float, beats: list[float], moved: list[int]
) -> None:
    parking = _parking(app, rate)
    _send(app, parking.queue_for("celery", CIRCUIT), *(str(number) for number in range(25)))
    steps = []
    for beat in beats:
        steps.append(parking.release(broker, _no, _all, beat))
        _received(app, "celery")
    assert steps == moved


def test_an_idle_time_earns_no_burst(app: Celery, broker: Broker) -> None:
    parking = _parking(app, 5)
    for _ in range(10):
        parking.release(broker, _no, _all, 60.0)
    _send(app, parking.queue_for("celery", CIRCUIT), *(str(number) for number in range(25)))
    assert parking.release(broker, _no, _all, 0.2) == 1


def test_a_circuit_that_is_only_probed_gets_one_message_at_a_time(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    _send(app, parking.queue_for("celery", CIRCUIT), *(str(number) for number in range(25)))
    assert parking.release(broker, _no, lambda _: 0.0, 1.0) == 1
    assert parking.release(broker, _no, _all, 1.0) == 0, "nobody has taken it yet"
    assert _received(app, "celery") == ["0"]
    assert parking.release(broker, _no, _all, 1.0) == 24


def test_what_was_released_as_probes_holds_up_nothing_when_the_circuit_has_closed(app: Celery, broker: Broker) -> None:
    parking = _parking(app, 10.0)
    _send(app, parking.queue_for("celery", CIRCUIT), *(str(number) for number in range(60)))
    for _ in range(20):  # a probe that takes long: others are released, and parked again, meanwhile
        assert parking.release(broker, _no, lambda _: 0.0, 0.5) == 1
        _received(app, "celery")
    assert parking.release(broker, _no, _all, 1.0) == 10


def test_three_workers_keep_the_order_while_the_queue_is_emptied_more_slowly(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    fleet = [_parking(app, 90.0) for _ in range(3)]
    parked = [str(number) for number in range(60)]
    _send(app, parking.queue_for("celery", CIRCUIT), *parked)
    _send(app, "celery", "newer", "newest")
    got: list[str] = []
    for _ in range(30):
        for one in fleet:
            one.release(broker, _no, _all, 0.5, lambda: 3)
            got += _received(app, "celery", most=5)
    assert [text for text in got if text in parked] == parked
    assert set(got) == {*parked, "newer", "newest"}


def test_urgent_ones_go_home_first_and_each_priority_keeps_its_order(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    fleet = [_parking(app, 30.0) for _ in range(3)]
    place = parking.queue_for("celery", CIRCUIT)
    for number in range(30):
        _send(app, place, f"{number % 2 * 9}:{number}", priority=number % 2 * 9)
    got: list[str] = []
    for _ in range(40):
        for one in fleet:
            one.release(broker, _no, _all, 0.5, lambda: 3)
        got += _received(app, "celery")
    assert got[0] == "0:0"
    for priority in "0", "9":
        numbers = [int(text.partition(":")[2]) for text in got if text.startswith(priority)]
        assert (len(numbers), numbers) == (15, sorted(numbers))


def test_three_workers_together_release_no_more_than_the_circuit_lets_pass(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    rate, beat_s = 90.0, 0.5
    fleet = [_parking(app, rate) for _ in range(3)]
    _send(app, parking.queue_for("celery", CIRCUIT), *(str(number) for number in range(600)))
    released, allowed = 0, 0.0
    for step in range(1, 11):
        share = step / 10
        for one in fleet:
            released += one.release(broker, _no, lambda _, now=share: now, beat_s, lambda: 3)  # type: ignore[misc]
            _received(app, "celery")
        allowed += rate * share * beat_s
        assert released <= allowed + 3, f"at {share:.0%}"
    assert released >= allowed * 0.9, "and it is used"


def test_what_one_process_parked_another_releases(app: Celery, broker: Broker, parking: Parking) -> None:
    _send(app, parking.queue_for("celery", CIRCUIT), "1")
    assert _parking(app).release(broker, _no, _all, 1.0) == 1


def test_parking_works_again_after_redis_was_emptied(
    app: Celery, broker: Broker, parking: Parking, redis_url: str
) -> None:
    parking.queue_for("celery", CIRCUIT)
    with redis.Redis.from_url(redis_url) as operator:
        operator.flushall()

    def released() -> int:
        _send(app, parking.queue_for("celery", CIRCUIT), "after")
        return parking.release(broker, _no, _all, 1.0)

    until(released, within_s=2 * REINDEX_S + 1, what="the queue is in the index again")


def test_a_queue_that_nobody_uses_any_more_is_forgotten_and_no_other(
    app: Celery, broker: Broker, parking: Parking
) -> None:
    used, fresh, _ = (parking.queue_for(home, CIRCUIT) for home in ("used", "fresh", "old"))
    _send(app, used, "1")
    marks = "shop:celeriac:v1:parked:fresh:openai|"
    broker.client.delete(f"{marks}used", f"{marks}old")
    assert parking.forget_empty(broker) == 1
    assert broker.client.smembers("shop:celeriac:v1:parked") == {used.encode(), fresh.encode()}
    assert 0 < broker.client.ttl(f"{marks}fresh") <= FRESH_S


def test_asking_for_the_queue_again_and_again_costs_no_connection_each(app: Celery) -> None:
    opened: list[Broker] = []

    def open_one() -> Broker:
        opened.append(Broker(app))
        return opened[-1]

    parking = Parking("celeriac", 100.0, open_one)
    names = {parking.queue_for("celery", CIRCUIT) for _ in range(1000)}
    assert len(names) == 1
    assert len(opened) <= 2


def test_a_parked_task_is_the_probe_of_a_circuit_that_gives_one_permit(shop_redis: str, tmp_path: Path) -> None:
    """The release must not use up the pass that the gate then finds missing."""
    policy = {"consecutive_failures": 1, "open_s": 1.0, "half_open_permits": 1, "success_threshold": 1, "ramp_s": 0}
    env = {"FEEDING_REDIS": shop_redis, "FEEDING_POOL": "q1", "RESILIENCE_CIRCUITS": json.dumps({"success": policy})}
    with (
        Celery("stock", broker=f"{shop_redis}/0", set_as_current=False) as app,
        WorkerProcess(FEEDING, "one", tmp_path, queues="q1", env=env),
        closing(Breakers.from_url(f"{shop_redis}/0", namespace="q1")) as breakers,
    ):
        breakers.record_failure("success")
        breakers.force_open("success", actor="ann", reason="to be parked", ttl_s=1.0)
        app.send_task("tasks.success", queue="q1", ignore_result=True)
        until(lambda: breakers.get_state("success") == "closed", within_s=15, what="the parked task probed it")
