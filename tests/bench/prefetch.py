"""What the prefetch window changes: one process or thread with room for one message, for some, for a thousand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.bench.delivery import OURS, STOCK, Messages, Subject, celery_worker, rate
from tests.bench.harness import Contender, Table, interleave
from tests.bench.peers import Stage


def tables(stage: Stage) -> list[Table]:
    messages = Messages(stage)
    return [pool_table(stage, messages, pool) for pool in stage.size.pools if pool != "solo"]


def pool_table(stage: Stage, messages: Messages, pool: str) -> Table:
    """Stock and ours on one pool with a concurrency of one, so that the multiplier is the window."""
    subjects = [
        subject
        for kind in (STOCK, OURS)
        for subject in (
            _named(celery_worker(messages, kind, pool, 1, worker_disable_prefetch=True), "prefetch disabled"),
            *(
                _named(celery_worker(messages, kind, pool, 1, worker_prefetch_multiplier=window), f"window {window:,}")
                for window in stage.size.windows
            ),
        )
    ]
    contenders = [Contender(subject.name, partial(rate, subject, stage)) for subject in subjects]
    return Table(
        f"The prefetch window, {pool} -c 1",
        "The same full queue of tasks that do nothing.",
        interleave(contenders, stage.size.work_rounds, warm_up=False),
        f"{STOCK}, window {stage.size.windows[-1]:,}",
        "tasks/s",
    )


def _named(subject: Subject, window: str) -> Subject:
    return replace(subject, name=f"{subject.name}, {window}")
