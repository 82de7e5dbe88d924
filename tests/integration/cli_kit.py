"""What the tests of the command line share: real commands, what they print, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def environment(url: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}


@pytest.fixture
def cli(shop_redis: str) -> Cli:
    """`cli("breaker", "list")` runs `celery -A tasks breaker list` on an empty Redis."""

    def run(
        *words: str | bytes, url: str = shop_redis, app: str = "tasks", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", app, *words],
            env={**environment(url), **environ}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error output, which must be one sentence and no traceback."""
    assert "Traceback" not in done.stderr
    text = done.stderr.strip().splitlines()[-1]
    assert text.startswith("Error: ")
    return text
