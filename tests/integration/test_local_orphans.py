"""Whatever ends the supervising process, its children end too: Ctrl-C, twice, SIGTERM, a crash, SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from resilience.local.orphans import bound_to_parent
from resilience.testing import until

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's death signal is Linux's")

# A child with a child of its own, both bound to their parents; it notes a SIGTERM and goes on.
CHILD = """
import pathlib, signal, subprocess, sys
from resilience.local.orphans import bound_to_parent
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "asked").touch())
grandchild = subprocess.Popen(bound_to_parent([sys.executable, "-c", "import signal; signal.pause()"]))
(folder / "pids.part").write_text(f"{__import__('os').getpid()} {grandchild.pid}")
(folder / "pids.part").rename(folder / "pids")
while True: signal.pause()
"""
SUPERVISING = """
import pathlib, sys, threading
from resilience.local.interrupts import Interrupted, interruptible
from resilience.local.supervisor import ChildSpec, Supervisor
folder, grace_s, end = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
spec = ChildSpec("child", (sys.executable, str(folder / "child.py"), str(folder)), stop_grace_s=grace_s)
supervisor = Supervisor([spec], log_dir=folder)
try:
    with interruptible():
        if end == "forget":
            supervisor.start()
            sys.stdin.readline()
            raise RuntimeError("crashed without a with block")
        with supervisor:
            threading.Event().wait()
except Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""


def family_of(folder: Path) -> list[psutil.Process]:
    until((folder / "pids").exists)
    return [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]


def gone(processes: list[psutil.Process]) -> bool:
    """Dead, or dead and not yet collected by the machine's init."""
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


Supervising = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def supervising(tmp_path: Path) -> Iterator[Supervising]:
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "child.py").write_text(CHILD)

    def start(grace_s: float = 0.2, end: str = "with") -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", SUPERVISING, str(tmp_path), str(grace_s), end]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@on_linux
def test_sigkill_of_the_supervising_process_leaves_no_orphan(tmp_path: Path, supervising: Supervising) -> None:
    process = supervising()
    family = family_of(tmp_path)
    process.kill()
    until(lambda: gone(family), within_s=2)


@pytest.mark.parametrize(("sig", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_signal_stops_all(tmp_path: Path, supervising: Supervising, sig: signal.Signals, exit_code: int) -> None:
    process = supervising()
    family = family_of(tmp_path)
    process.send_signal(sig)
    assert process.wait(10) == exit_code
    assert gone(family)
    assert (tmp_path / "asked").exists(), "the child was asked first"


def test_a_second_ctrl_c_does_not_wait_for_the_grace(tmp_path: Path, supervising: Supervising) -> None:
    process = supervising(grace_s=60.0)
    family = family_of(tmp_path)
    process.send_signal(signal.SIGINT)
    until((tmp_path / "asked").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert gone(family)


def test_a_burst_of_ctrl_c_leaves_nothing(tmp_path: Path, supervising: Supervising) -> None:
    process = supervising(grace_s=1.0)  # signals that arrive together count as one, so the grace may be used
    family = family_of(tmp_path)
    for _ in range(200):
        process.send_signal(signal.SIGINT)
    process.wait(10)
    until(lambda: gone(family), within_s=2)


def test_a_program_that_crashes_without_stopping_leaves_nothing(tmp_path: Path, supervising: Supervising) -> None:
    process = supervising(end="forget")
    family = family_of(tmp_path)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.wait(10) == 1
    until(lambda: gone(family), within_s=2)


@on_linux
def test_a_child_whose_parent_is_gone_before_it_starts_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    argv = bound_to_parent([sys.executable, "-c", f"open({str(ran)!r}, 'w')"])
    argv[4] = "1"  # as if the process that prepared the command had ended and init had taken over
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "ended before its child could start" in answer.stderr
    assert not ran.exists()


@on_linux
def test_the_death_signal_is_tied_to_the_thread_that_started_the_child() -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(bound_to_parent(["sleep", "60"]), stdout=subprocess.PIPE))
        until(lambda: psutil.Process(started[0].pid).name() == "sleep")

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    with started[0] as process:
        assert process.wait(2) == -signal.SIGKILL, "this is why every child has a keeper thread of its own"
