"""What a long queue costs: the same worker with more and more messages waiting, and what they take in Redis."""

from __future__ import annotations

from functools import partial

from tests.bench.delivery import OURS, STOCK, Messages, Subject, celery_worker, working
from tests.bench.harness import Contender, Table, interleave
from tests.bench.peers import Stage

POOL, CONCURRENCY = "threads", 4
STOCK_SEES = 2
"""Of the backlogs: stock Celery stands beside the first ones."""


def tables(stage: Stage) -> list[Table]:
    messages, backlogs = Messages(stage), stage.size.backlogs
    rows = [(kind, waiting) for kind in (STOCK, OURS) for waiting in backlogs[: None if kind == OURS else STOCK_SEES]]
    contenders = [_contender(stage, messages, kind, waiting) for kind, waiting in rows]
    return [
        Table(
            f"A backlog, {POOL} -c {CONCURRENCY}",
            "What is taken is put back all the while, so that the queue keeps its length. Redis MB: the messages.",
            interleave(contenders, stage.size.work_rounds, warm_up=False),
            contenders[STOCK_SEES].name,
            "tasks/s",
        )
    ]


def _contender(stage: Stage, messages: Messages, kind: str, waiting: int) -> Contender:
    subject = celery_worker(messages, kind, POOL, CONCURRENCY)
    return Contender(f"{kind}, {waiting:,} waiting", partial(_rate, stage, subject, waiting))


def _rate(stage: Stage, subject: Subject, waiting: int) -> dict[str, float]:
    size = stage.size
    stage.clear()
    empty_bytes = stage.meter.look().memory_bytes
    subject.fill(waiting)
    full_bytes = stage.meter.look().memory_bytes
    put = waiting

    def fill_up(ran: int) -> None:
        nonlocal put
        taken = ran + waiting - put
        if taken > 0:
            subject.fill(taken)
            put += taken

    with working(subject, stage) as work:
        work.wait_for(min(size.warm_tasks, waiting // 2))
        figures = work.measure(stage, waiting + size.filled, fill_up)
    return {**figures, "Redis MB": (full_bytes - empty_bytes) / 1e6}
