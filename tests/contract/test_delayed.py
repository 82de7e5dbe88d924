"""What is due later on a real Redis: one place per message, due order, moved once, and counted with its queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from celery import Celery
from kombu import Exchange, Queue

from resilience import Resilience
from resilience.delivery.broker import Broker
from resilience.delivery.claims import Claims
from resilience.delivery.delayed import AT_ONCE, Delayed
from resilience.delivery.eta import Appointment
from resilience.delivery.held import Held
from resilience.testing import until

FAR_S = 4_000_000_000.0
QUEUE = "shop:celery"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("delayed", broker=redis_url, set_as_current=False)
    Resilience(app)
    app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    yield app
    app.close()


@pytest.fixture
def delayed(broker: Broker) -> Delayed:
    return Delayed(broker, "celeriac", "me")


def server_s(broker: Broker) -> float:
    seconds, micros = broker.client.time()
    return float(seconds) + micros / 1e6


def claim(broker: Broker, appointments: Sequence[tuple[str, float]], source: str = QUEUE) -> Held:
    """A worker that claimed a message `text of <id>` for each (task id, due)."""
    held = Held("celeriac", "w")
    rows = {str(tag): f"{len(source)}:{source}text of {due[0]}" for tag, due in enumerate(appointments, start=1)}
    broker.client.hset(broker.key(held.claims_key), mapping=rows)
    for tag in rows:
        held.take(tag, b"")
    return held


def hand_over(broker: Broker, *appointments: tuple[str, float], source: str = QUEUE) -> None:
    """A worker claims these messages and hands them over."""
    tell(broker, claim(broker, appointments, source), appointments)


def tell(broker: Broker, held: Held, appointments: Sequence[tuple[str, float]]) -> None:
    for tag, (task_id, due_s) in enumerate(appointments, start=1):
        assert held.hand_over(str(tag), Appointment(task_id, due_s).label)
    Claims(broker).tell(held)
    assert held.late == 0
    assert broker.client.hlen(broker.key(held.claims_key)) == 0


def lies_in(broker: Broker, source: str = QUEUE) -> list[str]:
    """What a list holds, the next one first."""
    return [text.decode() for text in reversed(broker.client.lrange(source, 0, -1))]


def test_a_message_that_is_not_due_stays_and_one_that_is_goes_to_the_front(broker: Broker, delayed: Delayed) -> None:
    broker.client.lpush(QUEUE, "older", "newer")
    hand_over(broker, ("past", 1.0), ("future", FAR_S))
    look = delayed.release()
    assert (look.moved, look.back_s) == (1, FAR_S)
    assert abs(look.now_s - server_s(broker)) < 1
    assert lies_in(broker) == ["text of past", "older", "newer"]
    assert delayed.counts() == {QUEUE: 1}
    assert delayed.release().moved == 0


def test_what_is_due_at_once_goes_in_due_order_whatever_the_order_it_came_in(broker: Broker, delayed: Delayed) -> None:
    hand_over(broker, ("c", 3.0), ("a", 1.0), ("b", 2.0))
    assert delayed.release().moved == 3
    assert lies_in(broker) == ["text of a", "text of b", "text of c"]


def test_nothing_is_put_in_front_of_a_batch_that_waits_itself(broker: Broker, delayed: Delayed) -> None:
    hand_over(broker, *((f"{number:04}", 1.0 + number) for number in range(AT_ONCE + 5)))
    assert delayed.release().moved == AT_ONCE
    until(lambda: server_s(broker) * 1000 >= broker.client.zscore("shop:celeriac:v1:delayed", QUEUE), what="next look")
    assert delayed.release().moved == 0, "the earlier ones are not taken yet"
    taken = [broker.client.rpop(QUEUE).decode() for _ in range(AT_ONCE)]
    until(lambda: delayed.release().moved == 5, what="the rest follows")
    assert taken + lies_in(broker) == [f"text of {number:04}" for number in range(AT_ONCE + 5)]


def test_several_messages_of_one_task_are_all_kept(broker: Broker, delayed: Delayed) -> None:
    hand_over(broker, *(("twin", 1.0) for _ in range(15)))
    assert delayed.count() == 15
    assert delayed.release().moved == 15
    assert lies_in(broker) == ["text of twin"] * 15


def test_a_hand_over_that_is_told_twice_happens_once(broker: Broker, delayed: Delayed) -> None:
    held = Held("celeriac", "w")
    broker.client.hset(broker.key(held.claims_key), mapping={"1": f"{len(QUEUE)}:{QUEUE}text"})
    held.take("1", b"")
    held.hand_over("1", Appointment("id", FAR_S).label)
    assert not held.hand_over("1", Appointment("id", FAR_S).label), "it is not held any more"
    settled = held.settle()
    Claims(broker).tell(held)
    again = Held("celeriac", "w")
    again._under_way = settled  # the answer was lost: it is sent again
    Claims(broker).tell(again)
    assert delayed.count() == 1


def test_two_that_look_at_once_move_each_message_once(broker: Broker, app: Celery) -> None:
    total = 200
    hand_over(broker, *((str(number), 1.0) for number in range(total)))
    moved: list[int] = []

    def look() -> None:
        mine = Broker(app)
        moved.append(sum(Delayed(mine, "celeriac", threading.current_thread().name).release().moved for _ in range(20)))
        mine.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(moved) == total
    assert sorted(lies_in(broker)) == sorted(f"text of {number}" for number in range(total))


def test_only_one_worker_comes_back_in_time_until_it_is_gone(broker: Broker) -> None:
    hand_over(broker, ("id", FAR_S))
    keeper, other = Delayed(broker, "celeriac", "a", lease_s=0.1), Delayed(broker, "celeriac", "b", lease_s=0.1)
    assert keeper.release().back_s == FAR_S
    assert other.release().back_s is None
    until(lambda: other.release().back_s == FAR_S, what="the keeper's lease ends")


def test_a_revoked_task_goes_to_the_front_with_all_its_messages(broker: Broker, delayed: Delayed) -> None:
    broker.client.lpush(QUEUE, "older")
    hand_over(broker, ("id", FAR_S), ("id", FAR_S), ("other", FAR_S))
    hand_over(broker, ("id", FAR_S), source="shop:mail\x06\x169")
    assert delayed.bring_forward(["id", "unknown"]) == 3
    assert lies_in(broker) == ["text of id", "text of id", "older"]
    assert lies_in(broker, "shop:mail\x06\x169") == ["text of id"]
    assert delayed.bring_forward(["id"]) == 0
    assert delayed.count() == 1


def test_all_of_them_go_to_the_back_of_their_queues_in_due_order(broker: Broker, delayed: Delayed) -> None:
    broker.client.lpush(QUEUE, "ready")
    hand_over(broker, *((f"{number:04}", FAR_S + number) for number in range(AT_ONCE + 5)))
    hand_over(broker, ("letter", 1.0), source="shop:mail")
    assert delayed.release_all() == AT_ONCE + 6
    assert lies_in(broker) == ["ready", *(f"text of {number:04}" for number in range(AT_ONCE + 5))]
    assert lies_in(broker, "shop:mail") == ["text of letter"]
    left = {key.decode() for key in broker.client.keys("*delayed*")}
    assert left <= {"shop:celeriac:v1:delayed:keeper"}, "it is a lease"


def test_nothing_is_left_when_everything_was_released(broker: Broker, delayed: Delayed) -> None:
    hand_over(broker, ("id", 1.0))
    delayed.release()
    left = {key.decode().removeprefix("shop:celeriac:v1:delayed:") for key in broker.client.keys("*delayed*")}
    assert left == {f"front:{QUEUE}"}, "which expires"
    assert 0 < broker.client.ttl(f"shop:celeriac:v1:delayed:front:{QUEUE}") <= 3600


def test_a_list_that_is_none_stops_no_other_queue(broker: Broker, delayed: Delayed) -> None:
    broker.client.set("shop:broken", "a string")
    hand_over(broker, ("stuck", 1.0), source="shop:broken")
    hand_over(broker, ("fine", 2.0))
    assert delayed.release().moved == 1
    assert lies_in(broker) == ["text of fine"]
    assert delayed.bring_forward(["stuck"]) == 0
    assert delayed.release_all() == 0
    assert delayed.counts() == {"shop:broken": 1}, "it is still there when somebody mends the queue"


def test_a_server_out_of_memory_still_takes_and_releases_them(broker: Broker, delayed: Delayed) -> None:
    """Neither needs memory, and the way out of the trouble is that tasks run."""
    appointments = [("a", 1.0), ("b", 2.0), ("c", FAR_S)]
    held = claim(broker, appointments)
    broker.client.config_set("maxmemory", 1)
    try:
        tell(broker, held, appointments)
        assert delayed.release().moved == 2
        assert delayed.bring_forward(["c"]) == 1
    finally:
        broker.client.config_set("maxmemory", 0)
    assert lies_in(broker) == ["text of c", "text of a", "text of b"]


def test_the_first_ones_are_listed_by_time_over_all_queues(broker: Broker, delayed: Delayed) -> None:
    hand_over(broker, ("c", FAR_S + 3), ("a", FAR_S + 1))
    hand_over(broker, ("b", FAR_S + 2), source="shop:mail")
    found = [(message.source, message.due_s, message.raw.decode()) for message in delayed.first(2)]
    assert found == [(QUEUE, FAR_S + 1, "text of a"), ("shop:mail", FAR_S + 2, "text of b")]
    assert [message.due_s for message in delayed.of(["b", "unknown"])] == [FAR_S + 2]


def test_size_purge_and_delete_of_a_queue_know_what_is_due_later(app: Celery, broker: Broker, delayed: Delayed) -> None:
    """Through a connection as a publisher or the command line opens it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        hand_over(broker, ("1", FAR_S), ("2", FAR_S))
        hand_over(broker, ("3", FAR_S), source=f"{QUEUE}\x06\x169")
        hand_over(broker, ("4", FAR_S), source="shop:mail")
        assert channel.queue_declare("celery", passive=True).message_count == 3
        broker.client.lpush(QUEUE, "ready")
        assert channel.queue_purge("celery") == 4
        assert (delayed.counts(), lies_in(broker)) == ({"shop:mail": 1}, [])
        Queue("mail", Exchange("post"), "mail", channel=channel).declare()
        channel.queue_delete("mail")
        assert delayed.count() == 0


def test_a_connection_of_the_user_that_is_none_of_ours_counts_as_kombu_does(redis_url: str) -> None:
    with Celery("stock", broker=redis_url, set_as_current=False) as stock, stock.connection_for_write() as connection:
        assert connection.default_channel.queue_declare("celery").message_count == 0
