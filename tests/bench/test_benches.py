"""The benches run and print a table. Their figures are no test's business: a machine's speed is not the code's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import BENCHES

REPOSITORY = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.bench", *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", BENCHES)
def test_a_quick_bench_prints_its_tables_and_writes_every_figure(name: str, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    done = bench(name, "--quick", "--json", str(written))
    assert done.returncode == 0, done.stderr
    measured = json.loads(written.read_text("utf-8"))
    assert {"CPUs", "Python", "Redis server", "pybreaker"} <= measured["environment"].keys()
    for table in measured["tables"]:
        assert table["title"] in done.stdout
        assert any(row["name"].startswith("celeriac") or "circuit" in row["name"] for row in table["rows"])
        for row in table["rows"]:
            assert row["name"] in done.stdout
            assert all(figure["samples"] for figure in row["figures"].values())


def test_a_bench_that_is_not_there_is_refused_with_the_names_of_those_that_are() -> None:
    done = bench("braker")
    assert done.returncode == 2
    assert "no bench braker: there are breaker, " in done.stderr
