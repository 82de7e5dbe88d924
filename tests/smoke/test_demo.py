"""`make demo` loses nothing; with recovery off the same demo fails; nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilience.testing import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def demo(scratch: Path, *options: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "CELERIAC_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "pool", "demo", "--no-flower", *options],
        cwd=ROOT, env={**env, "TMPDIR": str(scratch)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def of_the_demo(scratch: Path) -> Iterator[psutil.Process]:
    """Every process on this machine that was started for the demo in `scratch`."""
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("TMPDIR", "").startswith(str(scratch))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:  # noqa: PERF203  it ended while we looked
            continue


def left_behind(scratch: Path) -> list[object]:
    return [*of_the_demo(scratch), *scratch.iterdir()]


@pytest.mark.timeout(150)
def test_the_demo_lives_through_an_outage_and_a_kill_without_losing_a_line(scratch: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    process = demo(scratch, "--json", "--output", str(answers))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["sent"] == summary["answered"] == 400
    assert (summary["lost"], summary["wrong"], summary["out_of_order"]) == (0, 0, 0)
    assert summary["fallback"] > 50, "the outage was lived through on the fallback"
    assert summary["opens"] >= 1
    assert summary["open_s"] > 3
    assert summary["to_recover_s"] is not None, "the primary answered again"
    assert summary["to_recover_s"] < 8
    assert summary["kill"]["held"] >= 1, "the worker was killed with work in hand"
    assert summary["kill"]["back_after_s"] < 5
    assert summary["elapsed_s"] < 90
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 401))
    assert left_behind(scratch) == []


@pytest.mark.timeout(150)
def test_the_same_demo_on_stock_celery_loses_lines_and_says_so(scratch: Path) -> None:
    process = demo(scratch, "--json", "--no-resilience")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    summary = json.loads(out)
    assert summary["lost"] > 0
    assert summary["kill"]["back_after_s"] is None
    assert not summary["ok"]


@pytest.mark.timeout(90)
def test_ctrl_c_in_the_middle_leaves_no_process_and_no_file(scratch: Path) -> None:
    process = demo(scratch)
    until(lambda: len(list(of_the_demo(scratch))) > 8, within_s=30, what="the pool is up")
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert left_behind(scratch) == []
