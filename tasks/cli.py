"""`celery -A tasks pool run` and `pool demo`: the reference application's commands."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from resilience.cli.context import Refused, Wrong, json_option, resilience_of
from resilience.cli.pool import app_argument, configured_broker

if TYPE_CHECKING:
    from resilience.middleware import Resilience
    from tasks.run import RunProgress, RunSummary
    from tasks.run_report import OnProgress

_API_URL = "CELERIAC_API_URL"


@click.command()
@click.option("--input", "input_path", required=True, type=click.Path(path_type=Path), help='JSONL: {"prompt": ...}.')
@click.option("--output", "output_path", required=True, type=click.Path(path_type=Path), help="JSONL of answers.")
@click.option("--api-url", help=f"OpenAI-compatible base URL for a pool that this command starts ({_API_URL}).")
@click.option(
    "--window", default=64, show_default=True, type=click.IntRange(1, 10_000), help="Lines under way at once."
)
@click.option("--resend-after", default=30.0, show_default=True, type=click.FloatRange(1.0), help="Seconds.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="When it starts a pool.")
@json_option
@click.pass_context
def run(
    context: click.Context, input_path: Path, output_path: Path, api_url: str | None,
    window: int, resend_after: float, workers: int, as_json: bool,
) -> None:  # fmt: skip
    """Send every line of a file through the pool; each answer is written once, in input order; resumable.

    Uses the configured broker's pool; without one it starts a pool of its own for as long as it runs. The API key
    comes from CELERIAC_API_KEY in the workers' environment.
    """
    from resilience.local.interrupts import Interrupted, interruptible
    from resilience.local.pool import EmbeddedPoolError
    from tasks.chat import chat
    from tasks.run import RunError, RunOptions, check_files, run_lines

    resilience = resilience_of(context)
    stop = threading.Event()
    try:
        options = RunOptions(window=window, resend_after_s=resend_after)
        check_files(input_path, output_path)
        with interruptible(), _pool(resilience, api_url, workers), _progress_bar(not as_json) as progress:
            summary = run_lines(
                resilience.app, chat, input_path, output_path, options=options, progress=progress, stop=stop
            )
    except (RunError, EmbeddedPoolError) as error:
        raise Refused(str(error), getattr(error, "exit_code", 1)) from None
    except Interrupted as interrupt:
        click.echo(f"interrupted; the same command goes on where it stopped ({output_path}.ledger)", err=True)
        context.exit(interrupt.exit_code)
    _print_run(summary, output_path, as_json)
    context.exit(summary.exit_code)


@click.command()
@click.option("--input", "input_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Your JSONL.")
@click.option("--output", "output_path", type=click.Path(path_type=Path), help="Keep the answers here.")
@click.option("--lines", default=400, show_default=True, type=click.IntRange(50, 2000), help="Built-in prompts.")
@click.option("--no-resilience", is_flag=True, help="The same on stock Celery: watch it lose work.")
@click.option("--no-flower", is_flag=True, help="Without the dashboard.")
@json_option
@click.pass_context
def demo(
    context: click.Context, input_path: Path | None, output_path: Path | None, lines: int,
    no_resilience: bool, no_flower: bool, as_json: bool,
) -> None:  # fmt: skip
    """A pool lives through an outage of its upstream and the SIGKILL of a worker; every line is accounted for."""
    from rich.console import Console

    from resilience.local.interrupts import Interrupted, interruptible
    from resilience.local.pool import EmbeddedPoolError
    from tasks.demo import Demo, DemoOptions
    from tasks.demo_view import print_summary, shown
    from tasks.run import RunError

    resilience = resilience_of(context)
    console = Console(stderr=as_json)
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="celeriac-demo-") as work:
            options = DemoOptions(
                app_argument(), Path(work), input_path, output_path, lines, not no_resilience, not no_flower
            )
            console.print("starting a pool of four workers, Redis, beat and Flower ...", style="dim")
            with shown(console) as draw:
                summary = Demo(options, resilience).run(draw)
    except (RunError, EmbeddedPoolError) as error:
        raise Refused(str(error)) from None
    except Interrupted as interrupt:
        click.echo("interrupted; everything is stopped", err=True)
        context.exit(interrupt.exit_code)
    if as_json:
        click.echo(summary.to_json())
    else:
        print_summary(console, summary, resilience=not no_resilience)
    context.exit(0 if summary.ok else 1)


@contextmanager
def _pool(resilience: Resilience, api_url: str | None, workers: int) -> Iterator[None]:
    """The configured pool, or one of our own for the time of the run."""
    from resilience.local.pool import EmbeddedPool, PoolLayout
    from resilience.services import NoServiceError, Services
    from tasks.adapters.choice import services
    from tasks.chat_client import ChatApi, ChatConfigError

    if configured_broker(resilience.app.conf):
        if api_url:
            raise Wrong(
                f"--api-url is for a pool that `pool run` starts; workers that run already read {_API_URL} from their "
                "environment: start them with it, or unset CELERY_BROKER_URL"
            )
        yield
        return
    env = {_API_URL: api_url} if api_url else {}
    try:
        ChatApi.from_environment(environ={**os.environ, **env})
    except ChatConfigError as error:
        raise Wrong(f"{error} (or give --api-url)") from None
    try:
        Services(*services({**os.environ, **env})).detect()
    except NoServiceError as error:
        click.echo(f"Warning: {error}; lines are answered offline until one can", err=True)
    layout = PoolLayout(app=app_argument(), workers=workers, session_workers=0, flower=False, env=env)
    with EmbeddedPool(layout, app=resilience.app) as pool:
        os.environ["CELERY_BROKER_URL"], os.environ["CELERY_RESULT_BACKEND"] = (
            pool.broker_url,
            pool.backend_url,
        )
        resilience.reconfigure()
        try:
            yield
        finally:
            resilience.reconfigure()  # before the broker stops, or it would be missed


@contextmanager
def _progress_bar(on: bool) -> Iterator[OnProgress | None]:
    """A progress callback that draws, or None."""
    if not on:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("lines", total=None)

        def show(progress: RunProgress) -> None:
            away = f", broker away {progress.away_s:.0f} s" if progress.away_s else ""
            bar.update(task, total=progress.total, completed=progress.done, description=f"lines{away}")

        yield show


def _print_run(summary: RunSummary, output_path: Path, as_json: bool) -> None:
    if as_json:
        click.echo(summary.to_json())
        return
    click.echo(f"{output_path}: {summary.sentence()}")
