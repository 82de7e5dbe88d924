"""A process forks in the middle of traffic: parent and child both go on, and nothing is counted twice."""

from __future__ import annotations

from tests.integration.breaker_kit import process, says


def test_a_forked_child_uses_the_breakers_it_inherited(redis_url: str) -> None:
    """In a process of its own: forking with threads running is what prefork does, and pytest is no place for it."""
    script = """
        import os, sys, time, warnings
        # Python 3.12+ warns of any fork with threads; that it works here is the point of this test.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers, CircuitOpenError
        breakers = Breakers.from_url(sys.argv[1])
        breakers.admit("a").settle()
        breakers.record_success("a")
        children = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                for _ in range(3):
                    breakers.record_failure("a")
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    try:
                        breakers.admit("a").settle(TimeoutError())
                    except CircuitOpenError:
                        os._exit(0)
                os._exit(1)
            children.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        deadline = time.monotonic() + 5
        while breakers.flows("a") and time.monotonic() < deadline:
            time.sleep(0.01)
        print(codes, breakers.get_state("a"), breakers.flows("a"), flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == "[0, 0] open False"


def test_a_child_forked_while_other_threads_use_the_breakers_is_not_locked_out(redis_url: str) -> None:
    script = """
        import faulthandler, os, sys, threading, warnings
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers
        breakers = Breakers.from_url(sys.argv[1])
        stop = threading.Event()
        def work():
            while not stop.is_set():
                breakers.call("a", lambda: None)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        codes = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                faulthandler.dump_traceback_later(10, exit=True)
                breakers.call("a", lambda: None)
                breakers.flush()
                os._exit(0)
            codes.append(os.waitpid(pid, 0)[1])
        stop.set()
        for thread in threads: thread.join()
        print(codes, flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == str([0] * 10)


def test_successes_that_wait_at_a_fork_are_counted_once(redis_url: str) -> None:
    script = """
        import os, sys, warnings
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers
        breakers = Breakers.from_url(sys.argv[1])
        children = 5
        for _ in range(100):
            breakers.record_success("a")
        for child in range(children):
            breakers.record_success("a")
            pid = os.fork()
            if pid == 0:
                for _ in range(10):
                    breakers.record_success("a")
                breakers.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        breakers.flush()
        print(breakers.snapshot("a")["calls"], flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == str(100 + 5 + 5 * 10)


def test_a_child_believes_nothing_that_its_parent_believed(redis_url: str) -> None:
    """Its own first look may show another state; and the parent's waiting probe is renewed by the parent alone."""
    script = """
        import os, sys, warnings
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        from resilience import Breakers
        breakers = Breakers.from_url(sys.argv[1])
        for _ in range(5):
            breakers.record_failure("a")
        pid = os.fork()
        if pid == 0:
            known = breakers._views.snapshot()
            passes = breakers.may_pass("a")
            os._exit(0 if known == {} and not passes else 1)
        print(os.waitpid(pid, 0)[1], flush=True)
        breakers.close()
    """
    with process(script, redis_url) as parent:
        assert says(parent) == "0"
