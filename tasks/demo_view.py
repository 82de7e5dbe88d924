"""What the demo looks like: a live table on a terminal, a line every two seconds elsewhere, a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tasks.demo import Scene
from tasks.demo_report import DemoSummary

_COLOURS = {"closed": "green", "open": "red", "half_open": "yellow"}
_LINE_EVERY_S = 2.0


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Scene], None]]:
    """A function that draws a scene, as fits the console."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda scene: live.update(_picture(scene))
    else:
        last = 0.0

        def line(scene: Scene) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_EVERY_S:
                last = time.monotonic()
                console.print(_sentence(scene), highlight=False, soft_wrap=True)

        yield line


def print_summary(console: Console, summary: DemoSummary, resilience: bool) -> None:
    """The end, for people."""
    table = Table(title="Celeriac demo" if resilience else "the same on stock Celery", show_header=False)
    for name, value in _rows(summary):
        table.add_row(name, value)
    console.print(table)
    verdict = "nothing lost" if summary.ok else f"{summary.lost} of {summary.sent} lines lost"
    if summary.wrong or summary.out_of_order:
        verdict += ", answers wrong or out of order"
    console.print(Text(verdict, style="bold green" if summary.ok else "bold red"))


def _rows(summary: DemoSummary) -> list[tuple[str, str]]:
    kill = summary.kill
    recovered = "-" if kill is None or kill.back_after_s is None else f"{kill.back_after_s:.1f} s"
    return [
        ("sent", str(summary.sent)),
        (
            "answered",
            f"{summary.answered}: {summary.primary} by the primary, {summary.fallback} by the fallback",
        ),
        ("lost", str(summary.lost)),
        (
            "repeated",
            f"{summary.repeated} prompts were answered twice by an upstream; the output has each once",
        ),
        ("sent again by the ledger", str(summary.resent)),
        ("calls to the upstreams", f"{summary.requests}, of which {summary.failed_requests} failed"),
        ("circuit not closed", f"{summary.open_s:.1f} s, opened {summary.opens}x"),
        (
            "primary back after its outage",
            "-" if summary.to_recover_s is None else f"{summary.to_recover_s:.1f} s",
        ),
        (
            "worker killed with SIGKILL",
            "-" if kill is None else f"{kill.worker}, holding {kill.held} messages",
        ),
        ("its messages on the queue again", recovered),
        ("time in all", f"{summary.elapsed_s:.1f} s"),
    ]


def _picture(scene: Scene) -> Group:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("upstream", Text(scene.upstream_mode, style="green" if scene.upstream_mode == "ok" else "red"))
    for name, row in scene.circuits.items():
        state = Text(row["state"], style=_COLOURS.get(row["state"], ""))
        probe = f"  probe in {row['probe_in_s']:.1f} s" if row["state"] == "open" else ""
        table.add_row(f"circuit {name}", state + Text(f"{probe}  {row['reason']}", style="dim"))
    table.add_row("queues", "   ".join(f"{name} {depth}" for name, depth in scene.queues.items()))
    table.add_row("workers", "   ".join(f"{name} ({text})" for name, text in scene.workers))
    table.add_row("answered", _answered(scene))
    table.add_row("calls", f"{scene.calls}, of which {scene.failed_calls} failed; {scene.retries} were retries")
    if scene.kill is not None:
        table.add_row("SIGKILL", _killed(scene))
    flower = next((text for name, text in scene.places if name == "flower"), None)
    if flower is not None:
        table.add_row("watch it", Text(flower.partition(",")[0] + "/breakers", style="dim"))
    progress = scene.progress
    bar = ProgressBar(total=progress.total if progress else 1, completed=progress.done if progress else 0, width=60)
    return Group(table, bar)


def _sentence(scene: Scene) -> str:
    circuits = ", ".join(f"{name} {row['state']}" for name, row in scene.circuits.items())
    queues = ", ".join(f"{name} {depth}" for name, depth in scene.queues.items())
    text = f"upstream {scene.upstream_mode} | {_answered(scene)} | queues {queues} | {circuits or 'no circuits'}"
    return text + (f" | {_killed(scene)}" if scene.kill is not None else "")


def _answered(scene: Scene) -> str:
    progress = scene.progress
    if progress is None:
        return scene.note
    by = progress.by_source
    fallback = by.get("secondary", 0) + by.get("offline", 0)
    text = f"{progress.answered} of {progress.total}: primary {by.get('primary', 0)}, fallback {fallback}"
    return (
        text
        + (f", failed {progress.failed}" if progress.failed else "")
        + (f", sent again {progress.resent}" if progress.resent else "")
    )


def _killed(scene: Scene) -> str:
    kill = scene.kill
    assert kill is not None
    back = "not back yet" if kill.back_after_s is None else f"back on the queue after {kill.back_after_s:.1f} s"
    return f"{kill.worker} killed holding {kill.held}: {back}"
