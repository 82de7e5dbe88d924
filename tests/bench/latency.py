"""How long after it was sent a task begins, when the worker waits and when it is half busy; what waiting costs."""

from __future__ import annotations

import random
import statistics
import time
from functools import partial

from tests.bench.delivery import OURS, QUEUE, STOCK, Messages, Subject, Work, celery_worker, rate, working
from tests.bench.harness import Contender, Table, interleave
from tests.bench.peers import Stage
from tests.bench.throughput import CONCURRENCY

_GAP_S = (0.02, 0.06)
"""Between two messages to a worker that waits; never the same, so that no rhythm of the worker's fits it."""
_WARM = 20


def tables(stage: Stage) -> list[Table]:
    messages = Messages(stage)
    return [pool_table(stage, messages, pool) for pool in stage.size.pools]


def pool_table(stage: Stage, messages: Messages, pool: str) -> Table:
    """Stock and ours on one pool, under the same load."""
    stock, ours = (celery_worker(messages, kind, pool, CONCURRENCY[pool]) for kind in (STOCK, OURS))
    load_per_s = rate(stock, stage)["tasks/s"] / 2
    contenders = [
        Contender(subject.name, partial(_delays, stage, messages, subject, load_per_s)) for subject in (stock, ours)
    ]
    return Table(
        f"From sending a task to its begin, {pool} -c {CONCURRENCY[pool]}",
        f"ms. Waiting: a task at a time. Under load: {load_per_s:.0f} tasks/s at random, half of what stock Celery "
        "just managed. CPU while it waits, of all its processes, as a share of one processor.",
        interleave(contenders, stage.size.work_rounds, warm_up=False),
        STOCK,
        "waiting p50",
    )


def _delays(stage: Stage, messages: Messages, subject: Subject, load_per_s: float) -> dict[str, float]:
    stage.clear()
    chance = random.Random(len(subject.name))
    with working(subject, stage) as work:
        _one_by_one(stage, messages, work, _WARM, chance)
        waiting = _one_by_one(stage, messages, work, stage.size.delays, chance)
        quiet = _quiet(stage, work)
        loaded = _under_load(stage, messages, work, load_per_s, chance)
    return {**_quantiles("waiting", waiting), **_quantiles("under load", loaded), **quiet}


def _one_by_one(stage: Stage, messages: Messages, work: Work, count: int, chance: random.Random) -> list[float]:
    ran = work.tasks
    for number in range(1, count + 1):
        _send(stage, messages)
        work.wait_for(ran + number)
        time.sleep(chance.uniform(*_GAP_S))
    return work.delays_ms(ran)


def _under_load(stage: Stage, messages: Messages, work: Work, load_per_s: float, chance: random.Random) -> list[float]:
    ran, sent = work.tasks, 0
    due = began = time.perf_counter()
    while due < began + stage.size.work_s:
        time.sleep(max(0.0, due - time.perf_counter()))
        _send(stage, messages)
        sent += 1
        due += chance.expovariate(load_per_s)
    work.wait_for(ran + sent)
    return work.delays_ms(ran)


def _send(stage: Stage, messages: Messages) -> None:
    stage.client.lpush(QUEUE, messages.one("plain", time.monotonic_ns()))


def _quiet(stage: Stage, work: Work) -> dict[str, float]:
    """What a worker does that has nothing to do."""
    redis_before, before = stage.meter.look(), work.look()
    time.sleep(stage.size.work_s)  # what is waited for is the passing of time itself
    after, redis_after = work.look(), stage.meter.look()
    lasted_s = after.at_s - before.at_s
    return {
        "waiting: commands/s": (redis_after.commands - redis_before.commands) / lasted_s,
        "round trips/s": (redis_after.reads - redis_before.reads) / lasted_s,
        "CPU %": 100 * (after.cpu_s - before.cpu_s) / lasted_s,
    }


def _quantiles(name: str, values: list[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return {f"{name} p50": hundredths[49], f"{name} p99": hundredths[98]}
