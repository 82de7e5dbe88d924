"""`celery -A app pool up|status|health|release`, and what others add to it (`run` and `demo` of the reference app)."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import click

from resilience.cli.context import Refused, Wrong, json_option, needs_redis, print_json, resilience_of
from resilience.delivery.broker import is_redis

if TYPE_CHECKING:
    from resilience.local.pool import SupervisorEvent

ADDED = "celeriac.pool_commands"
BROKER = "the broker"


class PoolGroup(click.Group):
    """A group whose further commands are entry points, loaded when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *(point.name for point in entry_points(group=ADDED))})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        own = super().get_command(context, name)
        if own is not None:
            return own
        for point in entry_points(group=ADDED):
            if point.name == name:
                return _load(point)
        return None


def _load(point: EntryPoint) -> click.Command:
    try:
        command: click.Command = point.load()
    except ImportError:
        package = point.module.partition(".")[0]
        foreign = getattr(sys.modules.get(package), "__file__", None) or "another module"
        sentence = (
            f"`pool {point.name}` belongs to the package {package!r} of Celeriac, but {foreign} has taken that name: "
            f"run it from another folder, with `celery -A {package} pool {point.name}`"
        )

        @click.command(point.name, short_help="(not here: see `--help`)", help=sentence)
        @click.argument("_ignored", nargs=-1, type=click.UNPROCESSED)
        def refuse(_ignored: Any) -> None:
            raise Wrong(sentence)

        return refuse
    return command


@click.group(cls=PoolGroup, context_settings={"help_option_names": ["-h", "--help"]})
def pool() -> None:
    """Start a pool, look at it, give it work."""


@pool.command()
@click.option("--workers", default=2, show_default=True, type=click.IntRange(0, 64))
@click.option("--concurrency", default=2, show_default=True, type=click.IntRange(1, 256), help="Per worker.")
@click.option("--fallback-workers", default=1, show_default=True, type=click.IntRange(0, 64))
@click.option("--session-workers", default=1, show_default=True, type=click.IntRange(0, 64))
@click.option("--no-beat", is_flag=True, help="Without the scheduler.")
@click.option("--no-flower", is_flag=True, help="Without the dashboard.")
@click.option("--port", type=click.IntRange(1, 65535), help="Flower's port; default: a free one.")
@click.option("--loglevel", default="WARNING", show_default=True)
@click.pass_context
def up(
    context: click.Context, workers: int, concurrency: int, fallback_workers: int, session_workers: int,
    no_beat: bool, no_flower: bool, port: int | None, loglevel: str,
) -> None:  # fmt: skip
    """Run a whole pool here until Ctrl-C: Redis (if none is configured), workers, beat, Flower."""
    from resilience.local.interrupts import Interrupted, interruptible
    from resilience.local.pool import EmbeddedPool, EmbeddedPoolError, PoolLayout

    resilience = resilience_of(context)
    conf = resilience.app.conf
    broker = configured_broker(conf)
    try:
        layout = PoolLayout(
            app=app_argument(), workers=workers, concurrency=concurrency, fallback_workers=fallback_workers,
            session_workers=session_workers, beat=not no_beat, flower=not no_flower, flower_port=port,
            loglevel=loglevel, redis_url=broker, result_url=conf.result_backend if broker else None,
            default_queue=conf.task_default_queue, fallback_queue=resilience.settings.fallback_queue,
        )  # fmt: skip
        with interruptible():
            click.echo("starting ...")
            with EmbeddedPool(layout, app=resilience.app, on_event=_say) as running:
                for name, text in running.describe():
                    click.echo(f"{name:>10}  {text}")
                click.echo("up; Ctrl-C stops everything")
                running.wait()
    except EmbeddedPoolError as error:
        raise Refused(str(error)) from None
    except Interrupted as interrupt:
        click.echo("stopped")
        context.exit(0 if interrupt.exit_code == 130 else interrupt.exit_code)


@pool.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Every live worker: queues, pulse, health."""
    resilience = resilience_of(context)
    with needs_redis(BROKER):
        workers = resilience.workers()
    if as_json:
        from dataclasses import asdict

        print_json([{**asdict(worker), "health": worker.health} for worker in workers])
        return
    if not workers:
        click.echo("No worker is alive. Start one: celery -A app worker, or celery -A app pool up")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("worker", "pid", "pool", "queues", "pulse", "health")
    for worker in workers:
        queues = ", ".join(queue for queue in worker.queues if ".worker." not in queue)
        row = (worker.hostname, str(worker.pid), f"{worker.pool} x{worker.concurrency}", queues)
        why = f", out of rotation: {worker.out_of_rotation}" if worker.out_of_rotation else ""
        why += f", takes less: {worker.degraded}" if worker.degraded else ""
        table.add_row(*row, f"{worker.beat_age_s:.1f} s ago", worker.health + why)
    Console().print(table)


@pool.command()
@json_option
@click.pass_context
def health(context: click.Context, as_json: bool) -> None:
    """One word for scripts: exit code 0 when every live worker is healthy and there is one, else 1."""
    resilience = resilience_of(context)
    with needs_redis(BROKER):
        workers = resilience.workers()
    sick = [worker.hostname for worker in workers if worker.health in ("degraded", "unhealthy")]
    healthy = bool(workers) and not sick
    if as_json:
        print_json({"healthy": healthy, "workers": {worker.hostname: worker.health for worker in workers}})
    elif healthy:
        click.echo(f"healthy: {len(workers)} workers")
    else:
        why = {
            worker.hostname: f" (out of rotation: {worker.out_of_rotation})"
            for worker in workers
            if worker.out_of_rotation
        }
        told = ", ".join(name + why.get(name, "") for name in sick)
        click.echo(f"not healthy: {told or 'no worker is alive'}")
    context.exit(0 if healthy else 1)


@pool.command()
@click.option("--force", is_flag=True, help="Also while workers of Celeriac are alive.")
@json_option
@click.pass_context
def release(context: click.Context, force: bool, as_json: bool) -> None:
    """Before stock workers take over: put parked, delayed and left-over messages onto plain queues.

    Stop the workers of Celeriac first: those that live would take the messages up again. May be repeated.
    """
    resilience = resilience_of(context)
    if not is_redis(resilience.app.conf.broker_write_url):
        raise Wrong("only a Redis broker holds messages that stock workers do not see: there is nothing to release")
    with needs_redis(BROKER):
        released = resilience.release(force)
    if as_json:
        from dataclasses import asdict

        print_json({**asdict(released), "moved": released.moved})
    elif force or not released.alive:
        counts = f"{released.parked} parked, {released.delayed} delayed, {released.alone} that were to run alone"
        click.echo(f"onto plain queues: {counts}, {released.claimed} of dead workers")
    if released.alive:
        names = ", ".join(released.alive)
        warning = f"{len(released.alive)} workers of Celeriac are alive and would take the messages up again: {names}"
        if not force:
            raise Refused(f"{warning}; stop them, then release, or say --force")
        click.echo(f"Warning: {warning}; stop them, then release once more", err=True)


def configured_broker(conf: Any) -> str | None:
    """The broker URL that the user gave, by environment or in the app; None when there is only a default."""
    given = os.environ.get("CELERY_BROKER_URL")
    if given:
        return given
    from resilience.settings import given_by_user

    url = given_by_user(conf, "broker_url")
    return str(url) if url else None


def app_argument() -> str:
    """What was typed after -A: child processes get the same."""
    words = sys.argv[1:]
    for index, word in enumerate(words):
        if word in ("-A", "--app") and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--app="):
            return word.partition("=")[2]
        if word.startswith("-A") and len(word) > 2:
            return word[2:]
    named = os.environ.get("CELERY_APP")
    if named:
        return named
    raise Wrong("name the app that the pool runs: celery -A yourapp pool up")


def _say(event: SupervisorEvent) -> None:
    from resilience.local.pool import EventKind

    if event.kind is EventKind.RESTARTING:
        click.echo(str(event))
