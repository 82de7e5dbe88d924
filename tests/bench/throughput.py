"""How many tasks that do nothing one worker runs: stock Celery, ours, and other task queues beside them."""

from __future__ import annotations

from functools import partial

from tests.bench.delivery import BARE, OURS, STOCK, Messages, Subject, celery_worker, others, rate
from tests.bench.harness import Contender, Table, interleave
from tests.bench.peers import Stage

CONCURRENCY = {"prefork": 2, "threads": 4, "solo": 1}


def tables(stage: Stage) -> list[Table]:
    messages, peers = Messages(stage), others(stage)
    return [pool_table(stage, messages, pool, peers[pool]) for pool in stage.size.pools]


def pool_table(stage: Stage, messages: Messages, pool: str, peers: list[Subject]) -> Table:
    """All contenders of one pool."""
    worker = partial(celery_worker, messages, pool=pool, concurrency=CONCURRENCY[pool])
    subjects = [worker(STOCK), worker(BARE), worker(OURS), worker(OURS, task="guarded"), *peers]
    contenders = [Contender(subject.name, partial(rate, subject, stage)) for subject in subjects]
    return Table(
        f"One worker, {pool} -c {CONCURRENCY[pool]}, a full queue of tasks that do nothing",
        "Acknowledged late, rejected when the worker is lost, prefetch multiplier 4, no results, log level WARNING. "
        "CPU: of all processes of the worker, and of the main one, per task; round trips and commands of Redis, too.",
        interleave(contenders, stage.size.work_rounds, warm_up=False),
        STOCK,
        "tasks/s",
    )
