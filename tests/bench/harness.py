"""How every bench measures and shows: contenders in turn, round by round, and what may be concluded from it.

A machine's speed drifts and other work disturbs it. So all contenders are measured in each round, the order turns round
from one round to the next, the first round does not count, a ratio is taken within its round, and medians are shown
with the lowest and the highest.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table as Printed

_DISTRIBUTIONS = ("celery", "kombu", "redis", "hiredis", "pybreaker", "purgatory", "dramatiq", "huey", "taskiq")
_PLAIN_WIDTH = 160
"""Columns when nobody's terminal says how many there are: tables in a log must not be folded."""


@dataclass(frozen=True)
class Size:
    """How much is measured. `calls` in memory and `remote_calls` to Redis are timed together, once in each round.

    `lap_s` is of the `circuits` used in turn, `load_s` and `feeders` (processes) of the firehose, in `load_rounds`;
    `openings` and `watchers` (processes) are of the propagation.

    The rest is of the delivery benches. A worker is watched for `work_s` after its first `warm_tasks`, with `filled`
    messages on the queue at first, in `work_rounds`. `delays` tasks are sent one by one; `backlogs` and `windows`
    (prefetch) are in messages.
    """

    rounds: int
    calls: int
    remote_calls: int
    circuits: int
    load_rounds: int
    lap_s: float
    load_s: float
    feeders: int
    openings: int
    watchers: int
    work_rounds: int
    work_s: float
    warm_tasks: int
    filled: int
    delays: int
    pools: tuple[str, ...]
    backlogs: tuple[int, ...]
    windows: tuple[int, ...]


LONG = Size(
    rounds=11, calls=20_000, remote_calls=200, circuits=1_000,
    load_rounds=5, lap_s=1.5, load_s=4.0, feeders=4, openings=200, watchers=8,
    work_rounds=3, work_s=3.0, warm_tasks=1_000, filled=30_000, delays=200,
    pools=("prefork", "threads", "solo"), backlogs=(1_000, 100_000, 1_000_000), windows=(1, 4, 100, 1_000),
)  # fmt: skip
QUICK = Size(
    rounds=2, calls=200, remote_calls=20, circuits=50,
    load_rounds=1, lap_s=0.05, load_s=0.3, feeders=1, openings=3, watchers=2,
    work_rounds=1, work_s=0.3, warm_tasks=50, filled=1_000, delays=5,
    pools=("threads",), backlogs=(100, 1_000), windows=(1, 100),
)  # fmt: skip
"""Shows that the benches run; its figures say nothing."""


@dataclass(frozen=True)
class Figure:
    """One figure's values, a value per round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def over(self, other: Figure) -> Figure:
        """This one as a multiple of another, taken within each round."""
        return Figure(tuple(a / b for a, b in zip(self.samples, other.samples, strict=True) if b))

    def __str__(self) -> str:
        low, high = _short(min(self.samples)), _short(max(self.samples))
        return low if low == high else f"{_short(self.median)} ({low} .. {high})"

    def as_json(self) -> dict[str, float | list[float]]:
        return {
            "median": self.median,
            "low": min(self.samples),
            "high": max(self.samples),
            "samples": list(self.samples),
        }


Measure = Callable[[], Mapping[str, float]]
"""One round of a contender: its figures by name, the unit in the name."""


@dataclass(frozen=True)
class Contender:
    name: str
    measure: Measure


@dataclass(frozen=True)
class Row:
    name: str
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class Table:
    """Rows of figures. With `reference`, a row's name, every row's figure `compared` is shown over that row's, too."""

    title: str
    note: str
    rows: tuple[Row, ...]
    reference: str | None = None
    compared: str = "us"

    @property
    def ratios(self) -> dict[str, Figure]:
        """By row: the figure that is compared over the reference's, round by round; {} without a reference."""
        base = next((row for row in self.rows if row.name == self.reference), None)
        if base is None:
            return {}
        return {row.name: row.figures[self.compared].over(base.figures[self.compared]) for row in self.rows}

    def as_json(self) -> dict[str, Any]:
        rows = []
        for row in self.rows:
            shown: dict[str, Any] = {"name": row.name}
            shown["figures"] = {name: figure.as_json() for name, figure in row.figures.items()}
            if self.reference is not None:
                shown["over_reference"] = self.ratios[row.name].as_json()
            rows.append(shown)
        return {
            "title": self.title,
            "note": self.note,
            "reference": self.reference,
            "compared": self.compared,
            "rows": rows,
        }


def interleave(contenders: Sequence[Contender], rounds: int, *, warm_up: bool = True) -> tuple[Row, ...]:
    """Measure every contender once in each of `rounds` rounds; the first round, if it is a warm-up, does not count.

    Without one each measurement has to warm up by itself, as one in new processes does.
    """
    samples: dict[str, dict[str, list[float]]] = {contender.name: {} for contender in contenders}
    for turn in range(0 if warm_up else 1, rounds + 1):
        for contender in contenders if turn % 2 else reversed(contenders):
            gc.collect()
            figures = contender.measure()
            if turn == 0:
                continue
            for name, value in figures.items():
                samples[contender.name].setdefault(name, []).append(value)
    return tuple(
        Row(name, {figure: Figure(tuple(values)) for figure, values in figures.items()})
        for name, figures in samples.items()
    )


@dataclass(frozen=True)
class Work:
    """What a Redis server has done since its start. `reads` are round trips: a pipeline is one."""

    reads: int
    commands: int
    cpu_s: float
    memory_bytes: int


class Meter:
    """Asks a Redis server what it has done; commands that a script runs count, the asking itself does not."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._asked = 0
        self._client.ping()

    def look(self) -> Work:
        info: dict[str, Any] = self._client.info("everything")
        calls = sum(row["calls"] for name, row in info.items() if name.startswith("cmdstat_"))
        cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
        work = Work(info["total_reads_processed"] - self._asked, calls - self._asked, cpu_s, info["used_memory"])
        self._asked += 1
        return work

    def close(self) -> None:
        self._client.close()


Batch = Callable[[], int]
"""Makes calls; says how many."""


def timed(batch: Batch, meter: Meter | None = None) -> dict[str, float]:
    """Figures per call of a batch: microseconds by the wall and of this process; with a meter, what Redis did."""
    before = meter.look() if meter is not None else None
    cpu_s, began = time.process_time(), time.perf_counter()
    calls = batch()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    figures = {"us": wall_s / calls * 1e6, "CPU us": cpu_s / calls * 1e6}
    if meter is not None and before is not None:
        after = meter.look()
        figures["round trips"] = round((after.reads - before.reads) / calls, 2)
        figures["commands"] = round((after.commands - before.commands) / calls, 2)
    return figures


def repeated(call: Callable[[], object], calls: int) -> Batch:
    """A batch that makes the same call so many times."""

    def batch() -> int:
        for _ in range(calls):
            call()
        return calls

    return batch


def environment(url: str) -> dict[str, str]:
    """What the figures depend on, besides the code. `url` is the Redis that was measured with."""
    with redis.Redis.from_url(url) as client:
        server: dict[str, Any] = client.info("server")
    found = {"CPUs": str(os.cpu_count()), "machine": platform.machine(), "system": platform.system()}
    found["load at start"] = f"{os.getloadavg()[0]:.1f}"
    found["Python"] = platform.python_version()
    found["Redis server"] = str(server["redis_version"])
    for name in _DISTRIBUTIONS:
        with suppress(metadata.PackageNotFoundError):  # hiredis changes figures where it is there; the rest must be
            found[name] = metadata.version(name)
    return found


def show(table: Table, console: Console) -> None:
    """Print a table for people."""
    names = list(dict.fromkeys(name for row in table.rows for name in row.figures))
    ratios = table.ratios
    printed = Printed(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
    printed.add_column("")
    for name in names:
        printed.add_column(name, justify="right")
    if ratios:
        printed.add_column(f"{table.compared} over {table.reference}", justify="right")
    for row in table.rows:
        cells = [str(row.figures[name]) if name in row.figures else "-" for name in names]
        if ratios:
            cells.append(str(ratios[row.name]))
        printed.add_row(row.name, *cells)
    console.print(printed)
    console.print()


def console_for_tables() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def write_json(path: Path, environ: Mapping[str, str], tables: Iterable[Table]) -> None:
    """Everything measured, each round's value included, for scripts."""
    content = {"environment": dict(environ), "tables": [table.as_json() for table in tables]}
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _short(value: float) -> str:
    """Three digits that matter."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
