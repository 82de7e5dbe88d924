"""Which service is there: the choice, the sentence when none is, and how seldom a probe is sent."""

from __future__ import annotations

import os
import pickle
import threading

import pytest

from resilience.errors.classify import classify
from resilience.errors.taxonomy import ErrorCategory
from resilience.services import NoServiceError, Service, Services, Sighting, choose
from resilience.testing import until


class Door:
    """A service that a test opens and closes; it counts who knocks."""

    def __init__(self, is_open: bool = True) -> None:
        self.knocks = 0
        self.is_open = is_open
        self.answers = threading.Event()
        self.answers.set()

    def probe(self) -> None:
        self.knocks += 1
        self.answers.wait()
        if not self.is_open:
            raise ConnectionRefusedError("connection refused")


def test_the_first_that_is_there_is_chosen_and_those_after_it_are_not_asked() -> None:
    first, second, third = Door(is_open=False), Door(), Door()
    services = [Service(name, door.probe) for name, door in (("one", first), ("two", second), ("three", third))]
    assert Services(*services).detect().name == "two"
    assert (first.knocks, second.knocks, third.knocks) == (1, 1, 0)


def test_when_none_is_there_one_sentence_says_what_was_tried_why_it_failed_and_what_to_do() -> None:
    closed = Service("the database", Door(is_open=False).probe, "start it")
    unset = Service("the spare", None, "set SPARE_URL")
    with pytest.raises(NoServiceError) as caught:
        Services(closed, unset).detect()
    assert str(caught.value) == (
        "no service can be used now: the database is not there (ConnectionRefusedError: connection refused, start it); "
        "the spare is not there (it is not set up, set SPARE_URL)"
    )
    assert classify(caught.value).category is ErrorCategory.CONNECTION
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "it travels from a pool process"


def test_the_choice_is_made_of_what_was_seen_alone() -> None:
    one, two = Service("one", None), Service("two", None)
    assert choose([Sighting(one, "gone"), Sighting(two, "")]) is two


def test_a_hundred_threads_send_one_probe_and_a_second_look_sends_none() -> None:
    door = Door()
    door.answers.clear()
    services = Services(Service("it", door.probe), seen_s=60)
    found: list[Service] = []
    threads = [threading.Thread(target=lambda: found.append(services.detect())) for _ in range(100)]
    for thread in threads:
        thread.start()
    until(lambda: door.knocks, what="one knocks")
    door.answers.set()
    for thread in threads:
        thread.join()
    services.detect()
    assert (len(found), door.knocks) == (100, 1)


def test_a_doubt_has_it_asked_again_and_a_good_call_is_worth_a_probe() -> None:
    door = Door()
    service = Service("it", door.probe)
    services = Services(service, seen_s=60, missed_s=60)
    services.detect()
    door.is_open = False
    services.detect()  # died after it was looked at
    services.doubt(service)
    with pytest.raises(NoServiceError):
        services.detect()
    with pytest.raises(NoServiceError):
        services.detect()
    assert door.knocks == 2
    services.confirm(service)
    assert services.detect() is service
    assert door.knocks == 2


def test_a_probe_that_hangs_is_waited_for_no_longer_than_allowed_and_gets_no_second() -> None:
    door = Door()
    door.answers.clear()
    services = Services(Service("it", door.probe), timeout_s=0.05, missed_s=0.001)
    for _ in range(3):
        with pytest.raises(NoServiceError, match="no answer for"):
            services.detect()
    assert door.knocks == 1
    door.answers.set()
    until(lambda: services.look()[0].is_there, what="it answered in the end")


def test_a_forked_process_asks_for_itself() -> None:
    door = Door()
    services = Services(Service("it", door.probe), seen_s=60)
    services.detect()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            services.detect()
            code = 0 if door.knocks == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
