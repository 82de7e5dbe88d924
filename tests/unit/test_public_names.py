"""The public surface: every name resolves, the light parts stay light, a stranger named `signals` is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import resilience

_HEAVY = ("celery", "kombu", "redis", "billiard", "flower", "sentry_sdk")


def _run(code: str, cwd: Path, *, expect_failure: bool = False) -> str:
    """What a fresh interpreter says that was started in `cwd`, as a user's would be."""
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) is expect_failure, done.stderr
    return done.stderr if expect_failure else done.stdout


@pytest.mark.parametrize("name", resilience.__all__)
def test_every_public_name_resolves_in_a_fresh_process_and_only_backoff_is_a_module(name: str, tmp_path: Path) -> None:
    code = f"import resilience, types; x = resilience.{name}; print(x.__name__, isinstance(x, types.ModuleType))"
    called, is_module = _run(code, tmp_path).split()
    assert called.rpartition(".")[2] == name
    assert is_module == str(name == "backoff")


def test_the_list_of_public_names_is_the_list_of_homes() -> None:
    assert sorted(resilience._HOMES) == sorted(resilience.__all__)


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'resilience' has no attribute 'Breaker'"):
        _ = resilience.Breaker  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "module",
    ["resilience", "resilience.breaker.machine", "resilience.errors", "resilience.recovery.decide",
     "resilience.retry.backoff", "resilience.retry.budget", "resilience.retry.call", "resilience.settings",
     "signals.events", "signals.redact", "signals.bus"],
)  # fmt: skip
def test_a_light_module_loads_neither_celery_nor_redis(module: str, tmp_path: Path) -> None:
    loaded = json.loads(_run(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))", tmp_path))
    assert {name for name in loaded if name.partition(".")[0] in _HEAVY} == set()


def test_a_project_with_a_tasks_module_of_its_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("MINE = True\n")
    assert _run("from resilience import Resilience; import tasks; print(tasks.MINE)", tmp_path) == "True\n"


def test_a_module_named_signals_in_front_of_ours_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "signals.py").write_text("")
    said = _run("import resilience", tmp_path, expect_failure=True).splitlines()[-1]
    assert said == (
        f"ImportError: the name `signals` belongs to {tmp_path / 'signals.py'} here, "
        "but Celeriac needs its own package of that name: rename that module, or move it into a package of your project"
    )


@pytest.mark.parametrize("parts", [(), ("events.py", "bus.py")], ids=["empty", "with parts of the same names"])
def test_a_package_named_signals_in_front_of_ours_is_named(parts: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "signals"
    folder.mkdir()
    for name in ("__init__.py", *parts):
        (folder / name).write_text("")
    said = _run("import resilience", tmp_path, expect_failure=True).splitlines()[-1]
    assert said.startswith(f"ImportError: the name `signals` belongs to {folder}")
