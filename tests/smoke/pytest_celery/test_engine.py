"""CELERIAC_TEST_ENGINE chooses what the plugin's nodes are; what cannot be had is said in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def pytest_says(**env: str) -> str:
    """What pytest prints for the plugin's tests, run with this environment."""
    command = [sys.executable, "-m", "pytest", "-k", "circuits", str(HERE / "test_plugin.py")]
    done = subprocess.run(
        command, env={**os.environ, "COLUMNS": "400", **env}, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_with_docker_asked_for_and_no_engine_the_tests_are_skipped_with_the_reason(tmp_path: Path) -> None:
    said = pytest_says(CELERIAC_TEST_ENGINE="docker", DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")

    assert "2 skipped, 1 deselected in" in said
    assert "CELERIAC_TEST_ENGINE is docker, and no Docker engine answers" in said


def test_an_unknown_engine_is_refused() -> None:
    said = pytest_says(CELERIAC_TEST_ENGINE="podman")

    assert "CELERIAC_TEST_ENGINE is podman: it may be processes or docker" in said
