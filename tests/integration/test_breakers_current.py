"""`resilience.circuit`: circuits of the current Celery app, for code that names none; two policies of one circuit."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from resilience import BreakerPolicy, circuit
from resilience.testing import RecordingSink
from signals.events import PolicyConflict
from tests.integration.breaker_kit import ROOT, MakeBreakers, fail

STRICT = BreakerPolicy(consecutive_failures=1, open_s=60)
PATIENT = BreakerPolicy(consecutive_failures=9, open_s=60)


def run(code: str, url: str) -> list[str]:
    """What a process of its own prints: the current app is one per process, and pytest's shall stay as it is."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), url], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_functions_decorated_before_the_app_exists_go_through_its_circuits(redis_url: str) -> None:
    said = run(
        """
        import sys
        from resilience import circuit

        through = circuit("a")

        @circuit("a")
        def call(fails):
            if fails:
                raise TimeoutError
            return "answer"

        from celery import Celery
        from resilience import CircuitOpenError, Resilience
        app = Celery("shop", broker=sys.argv[1])
        resilience = Resilience(app)

        print(call(False))
        for _ in range(5):
            try:
                call(True)
            except TimeoutError:
                pass
        try:
            with through:
                print("passed")
        except CircuitOpenError as error:
            print(error.name, error.state)
        print(resilience.breakers.get_state("a"), through.breakers is resilience.breakers)
        resilience.breakers.close()
        """,
        redis_url,
    )
    assert said == ["answer", "a open", "open True"]


def test_without_an_app_and_with_one_that_has_no_celeriac_one_sentence_says_what_to_do(redis_url: str) -> None:
    said = run(
        """
        import sys
        from resilience import PoolError, circuit

        def ask():
            try:
                with circuit("a"):
                    print("passed")
            except PoolError as error:
                print(error)

        ask()
        from celery import Celery
        app = Celery("shop", broker=sys.argv[1])
        ask()
        """,
        redis_url,
    )
    sentence = (
        "no Celery app has Celeriac here: call Resilience(app) first, or outside Celery use "
        'Breakers.from_url("redis://...").circuit(name)'
    )
    assert said == [sentence, sentence]


def test_a_thread_that_has_no_current_app_uses_the_only_one_with_celeriac(redis_url: str) -> None:
    """Celery makes an app current in the thread that made it alone; a web server calls from others."""
    said = run(
        """
        import sys, threading
        from celery import Celery
        from resilience import PoolError, Resilience, circuit

        guarded = circuit("a")(lambda: "passed")
        def ask():
            try:
                print(guarded())
            except PoolError as error:
                print(error)

        def ask_in_a_thread():
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()

        Celery("plain", broker=sys.argv[1])
        app = Celery("shop", broker=sys.argv[1])
        resilience = Resilience(app)
        ask_in_a_thread()
        other = Celery("other", broker=sys.argv[1])
        Resilience(other)
        ask_in_a_thread()
        resilience.breakers.close()
        """,
        redis_url,
    )
    assert said[0] == "passed"
    assert said[1].startswith("2 Celery apps have Celeriac here, and none is current: call app.set_current(), or ")


def test_an_unusable_name_is_refused_where_it_is_written_not_at_the_first_call() -> None:
    with pytest.raises(ValueError, match="is not usable"):
        circuit("two words")


# -- one circuit, two policies -------------------------------------------------------------------------------------


def test_of_two_policies_of_the_current_app_the_one_used_later_stays(redis_url: str) -> None:
    said = run(
        """
        import sys
        from celery import Celery
        from resilience import BreakerPolicy, Resilience, circuit
        from signals.events import PolicyConflict

        @circuit("a", BreakerPolicy(consecutive_failures=9))
        def patient():
            pass

        @circuit("a", BreakerPolicy(consecutive_failures=2))
        def strict():
            pass

        resilience = Resilience(Celery("shop", broker=sys.argv[1]))
        resilience.bus.subscribe(lambda event: isinstance(event, PolicyConflict) and print(event.difference))
        patient(); strict(); patient()
        for _ in range(2):
            resilience.breakers.record_failure("a")
        print(resilience.breakers.get_state("a"))
        resilience.breakers.close()
        """,
        redis_url,
    )
    assert said == ["consecutive_failures 9 and 2", "open"]


def test_in_one_process_the_newer_policy_wins_and_the_conflict_is_said_once(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers = make(sink=sink)
    breakers.circuit("c", PATIENT)
    breakers.circuit("c", PATIENT)
    assert sink.of(PolicyConflict) == []
    for _ in range(3):
        breakers.circuit("c", STRICT)
    assert sink.of(PolicyConflict) == [PolicyConflict("c", "consecutive_failures 9 and 1")]
    fail(breakers, 1, "c")
    assert breakers.get_state("c") == "open"


def test_two_policies_that_differ_in_what_they_record_are_a_conflict_too(make: MakeBreakers) -> None:
    sink = RecordingSink()
    breakers = make(sink=sink)
    breakers.circuit("c", PATIENT)
    breakers.circuit("c", PATIENT.model_copy(update={"ignore": frozenset({"timeout_error"})}))
    assert sink.of(PolicyConflict) == [PolicyConflict("c", "what is recorded as a failure")]


def test_across_processes_the_newer_policy_decides_and_each_says_the_conflict_once(make: MakeBreakers) -> None:
    sink, other_sink = RecordingSink(), RecordingSink()
    old, new = make(policy=PATIENT, sink=sink), make(policy=STRICT, sink=other_sink)
    fail(old, 2)
    assert sink.of(PolicyConflict) == []
    for _ in range(2):
        new.record_success("a")
        new.flush()
        old.record_failure("a")
    assert sink.of(PolicyConflict) == [PolicyConflict("a", "consecutive_failures 1 and 9")]
    assert other_sink.of(PolicyConflict) == [PolicyConflict("a", "consecutive_failures 9 and 1")]
    fail(new, 1)
    assert old.get_state("a") == "open", "by the policy of the process whose failure it was"


def test_a_policy_given_in_code_wins_over_the_settings_one(make: MakeBreakers) -> None:
    breakers = make(policy=PATIENT)
    breakers.circuit("a", STRICT)
    fail(breakers, 1)
    assert breakers.get_state("a") == "open"
