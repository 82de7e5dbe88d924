"""The supervisor with real processes: restarts, kills by name, orderly and forced stops, no orphans."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilience.local.errors import EmbeddedPoolError
from resilience.local.supervisor import ChildSpec, EventKind, Supervisor, SupervisorEvent
from resilience.testing import until

SLEEPER = "import signal; signal.pause()"
STUBBORN = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
# one child in the group, one that left it for a session of its own
FAMILY = """
import signal, subprocess, sys
code = "import signal; signal.pause()"
children = [subprocess.Popen([sys.executable, "-c", code], start_new_session=own) for own in (False, True)]
print(*[child.pid for child in children], flush=True)
signal.pause()
"""


def python(code: str, name: str = "child", **options: object) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), **options)  # type: ignore[arg-type]


def runs(pid: int) -> bool:
    """Alive, and not merely waiting for the machine's init to collect it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def events() -> list[SupervisorEvent]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, events: list[SupervisorEvent]) -> Iterator[Supervisor]:
    with Supervisor(log_dir=tmp_path, on_event=events.append) as supervisor:
        yield supervisor


def kinds(events: list[SupervisorEvent]) -> list[EventKind]:
    return [event.kind for event in events]


def test_a_killed_child_is_started_again_under_its_name(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python(SLEEPER))
    first = supervisor.member("child")

    supervisor.kill("child")
    until(lambda: supervisor.member("child").restarts == 1)

    second = supervisor.member("child")
    assert second.alive
    assert second.pid != first.pid
    assert second.last_exit == "SIGKILL"
    assert kinds(events)[:4] == [EventKind.STARTED, EventKind.EXITED, EventKind.RESTARTING, EventKind.STARTED]
    assert events[2].delay_s == pytest.approx(0.2)


def test_a_child_that_keeps_dying_is_started_ever_more_slowly_and_said_to(
    supervisor: Supervisor, events: list[SupervisorEvent]
) -> None:
    supervisor.add(python("raise SystemExit(3)"))
    until(lambda: supervisor.member("child").restarts >= 2)
    delays = [(event.delay_s, event.deaths_in_a_row) for event in events if event.kind is EventKind.RESTARTING]
    assert delays[:2] == [(pytest.approx(0.2), 1), (pytest.approx(0.4), 2)]
    assert supervisor.member("child").last_exit == "exit code 3"


def test_a_child_without_restart_stays_dead(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python("pass", restart=False))
    until(lambda: EventKind.STOPPED in kinds(events))
    assert kinds(events) == [EventKind.STARTED, EventKind.EXITED, EventKind.STOPPED]
    with pytest.raises(EmbeddedPoolError, match="child is not running"):
        supervisor.kill("child")


def test_the_output_of_every_life_is_in_the_log(supervisor: Supervisor) -> None:
    supervisor.add(python("import sys; print('one'); sys.exit('two')"))
    until(lambda: supervisor.member("child").restarts >= 1 and supervisor.log_tail("child", 9).count("two") >= 2)
    assert "one" in supervisor.log_tail("child", 9)


def test_stop_ends_children_grandchildren_and_those_that_left_the_group(supervisor: Supervisor) -> None:
    before = set(psutil.Process().children(recursive=True))
    supervisor.add(python(FAMILY))
    until(lambda: len(supervisor.log_tail("child").split()) == 2)
    pids = [int(pid) for pid in supervisor.log_tail("child").split()]
    assert all(psutil.pid_exists(pid) for pid in pids)

    supervisor.stop()

    assert not any(runs(pid) for pid in pids)
    assert set(psutil.Process().children(recursive=True)) == before


def test_what_a_dead_child_left_in_its_group_is_ended_before_the_restart(supervisor: Supervisor) -> None:
    supervisor.add(python(FAMILY))
    until(lambda: len(supervisor.log_tail("child").split()) == 2)
    in_group, left_group = (int(pid) for pid in supervisor.log_tail("child").split())
    supervisor.kill("child")
    until(lambda: supervisor.member("child").restarts == 1)
    until(lambda: not runs(in_group), within_s=2)
    psutil.Process(left_group).kill()  # out of reach by its own wish, so the test ends it


def test_a_stubborn_child_is_killed_after_its_grace(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python(STUBBORN, stop_grace_s=0.3))
    until(lambda: supervisor.log_tail("child") == "ready")
    begun = time.monotonic()
    supervisor.stop()
    assert 0.3 <= time.monotonic() - begun < 3
    assert events[-2].ended == "SIGKILL"


def test_a_frozen_child_still_gets_its_stop_signal(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python(SLEEPER))
    supervisor.kill("child", signal.SIGSTOP)
    supervisor.stop()
    assert events[-2].ended == "SIGTERM"


def test_the_broker_is_stopped_after_all_others(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python(SLEEPER, "broker", stops_last=True))
    supervisor.add(python(SLEEPER, "worker"))
    supervisor.stop()
    ended = [event.name for event in events if event.kind is EventKind.EXITED]
    assert ended == ["worker", "broker"]


def test_stop_during_a_restart_delay_starts_nothing(supervisor: Supervisor, events: list[SupervisorEvent]) -> None:
    supervisor.add(python("pass"))
    until(lambda: EventKind.RESTARTING in kinds(events))
    supervisor.stop()
    supervisor.stop()
    assert kinds(events)[-1] is EventKind.STOPPED
    assert not supervisor.member("child").alive


def test_an_observer_that_fails_does_not_stop_the_restarts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: SupervisorEvent) -> None:
        raise ValueError(f"cannot show {event}")

    with Supervisor([python("pass")], log_dir=tmp_path, on_event=fail) as supervisor:
        until(lambda: supervisor.member("child").restarts >= 1)
    assert "cannot show" in caplog.text


def test_a_command_that_does_not_exist_is_named_in_the_log(supervisor: Supervisor) -> None:
    supervisor.add(ChildSpec("child", ("no-such-command",), restart=False))
    until(lambda: supervisor.member("child").last_exit == "exit code 127")
    assert supervisor.log_tail("child") == "cannot run no-such-command: No such file or directory"


def test_a_missing_working_folder_is_an_error_at_the_start(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPoolError, match=r"cannot start child: .*nowhere"):
        supervisor.add(python(SLEEPER, cwd=tmp_path / "nowhere"))


def test_an_unknown_name_is_answered_with_the_known_ones(supervisor: Supervisor) -> None:
    supervisor.add(python(SLEEPER))
    with pytest.raises(EmbeddedPoolError, match=r"no child named worker9; there are: child"):
        supervisor.kill("worker9")
    with pytest.raises(EmbeddedPoolError, match="already a child named child"):
        supervisor.add(python(SLEEPER))
