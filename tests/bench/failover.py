"""What going round an open circuit costs: a long queue that moves, a message at the gate, a task that is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import kombu.pools
import redis
from celery import Celery

from resilience import Resilience, fallback_task
from resilience.gate import gate_for
from tests.bench.delivery import OURS, QUEUE, Messages, celery_worker, working
from tests.bench.fleet import READY, fleet
from tests.bench.harness import Contender, Table, interleave, repeated, timed
from tests.bench.peers import Stage
from tests.bench.throughput import CONCURRENCY

CIRCUIT, LEVEL, PARKED = "bench", "fallback", f"celeriac.parked.bench|{QUEUE}"
_MOVES_WITHIN_S = 300.0
_LOOK_S = 0.005
_PING_EVERY_S = 0.002
_WORTH_NOTING_US = 200
"""Commands that keep Redis busy for less are not looked at: the log of the slow ones costs something, too."""


def tables(stage: Stage) -> list[Table]:
    return [queue_table(stage), degraded_table(stage), *_cost_tables(stage)]


def queue_table(stage: Stage) -> Table:
    """A queue of the longest backlog but one, behind a circuit that is open."""
    messages, waiting = Messages(stage), stage.size.backlogs[1]
    pools = stage.size.pools[:2]
    contenders = [Contender("celeriac: idle", partial(_idle, stage))]
    for pool in pools:
        subject = celery_worker(messages, OURS, pool, CONCURRENCY[pool], task="guarded")
        contenders.append(Contender(f"celeriac, {pool}: to a level", partial(_moved, stage, subject, waiting, LEVEL)))
        if len(pools) > 1:
            contenders.append(Contender(f"celeriac, {pool}: parked", partial(_moved, stage, subject, waiting, PARKED)))
    if len(pools) > 1:
        contenders.append(_by_stock_transport(stage, messages, pools[0], waiting // 50))
    return Table(
        f"{waiting:,} messages behind an opening circuit",
        f"One worker moves them all. Ping: asked every {_PING_EVERY_S * 1000:g} ms by another process; idle: the same "
        "without a worker. Longest command: what kept Redis busy, by its own log.",
        interleave(contenders, stage.size.work_rounds, warm_up=False),
    )


def degraded_table(stage: Stage) -> Table:
    """What a worker does while the circuit of its tasks is open, beside what it does while it is closed."""
    messages, pool = Messages(stage), stage.size.pools[-1 if len(stage.size.pools) == 1 else 1]

    def contender(name: str, task: str, *shut: str) -> Contender:
        worker = celery_worker(messages, OURS, pool, CONCURRENCY[pool], task=task)
        subject = replace(worker, argv=(*worker.argv, "-Q", f"{QUEUE},{LEVEL}"))

        def measure() -> dict[str, float]:
            stage.clear()
            for circuit in shut:
                stage.breakers.force_open(circuit, actor="bench", reason="to be measured")
            subject.fill(stage.size.filled)
            with working(subject, stage) as work:
                work.wait_for(stage.size.warm_tasks)
                return work.measure(stage, stage.size.filled)

        return Contender(name, measure)

    contenders = [
        contender("celeriac: closed", "guarded"),
        contender("celeriac: open, moved", "guarded", CIRCUIT),
        contender("celeriac: open, stand-in", "replaced", CIRCUIT),
    ]
    return Table(
        f"Tasks while a circuit is open, {pool} -c {CONCURRENCY[pool]}",
        "One worker consumes both queues. Moved: to the fallback queue, by it, which then runs it. Stand-in: at home.",
        interleave(contenders, stage.size.work_rounds, warm_up=False),
        contenders[0].name,
        "tasks/s",
    )


def _by_stock_transport(stage: Stage, messages: Messages, pool: str, waiting: int) -> Contender:
    """The gate publishes and then acknowledges there; fewer messages, as it takes long."""
    subject = celery_worker(messages, OURS, pool, CONCURRENCY[pool], task="guarded", resilience_transport_enabled=False)
    name = f"celeriac, {pool}, stock transport: {waiting:,} to a level"
    return Contender(name, partial(_moved, stage, subject, waiting, LEVEL))


def _moved(stage: Stage, subject: Any, waiting: int, to: str) -> dict[str, float]:
    stage.clear()
    circuits = [CIRCUIT] if to == LEVEL else [CIRCUIT, f"{CIRCUIT}@{LEVEL}"]
    for circuit in circuits:
        stage.breakers.force_open(circuit, actor="bench", reason="to be measured")
    subject.fill(waiting)
    with _watched(stage) as pauses, working(subject, stage):
        moved = partial(stage.client.llen, to)
        _wait(lambda: moved() >= waiting // 10)
        began, first, before = time.perf_counter(), moved(), stage.meter.look()
        _wait(lambda: moved() >= waiting)
        took_s, after = time.perf_counter() - began, stage.meter.look()
    count = waiting - first
    return {
        "messages/s": count / took_s,
        "round trips": (after.reads - before.reads) / count,
        "Redis CPU us": (after.cpu_s - before.cpu_s) / count * 1e6,
        **pauses,
    }


def _idle(stage: Stage) -> dict[str, float]:
    stage.clear()
    with _watched(stage) as pauses:
        time.sleep(stage.size.work_s)  # what is waited for is the passing of time itself
    return pauses


@contextmanager
def _watched(stage: Stage) -> Iterator[dict[str, float]]:
    """How long Redis let others wait meanwhile, filled in at the end of the block."""
    pauses: dict[str, float] = {}
    stage.client.config_set("slowlog-log-slower-than", _WORTH_NOTING_US)
    stage.client.slowlog_reset()
    with fleet(1, _ping, stage.url) as (line,):
        yield pauses
        line.send("enough")
        pings = sorted(line.recv())
    slowest = max((entry["duration"] for entry in stage.client.slowlog_get(-1)), default=_WORTH_NOTING_US)
    stage.client.config_set("slowlog-log-slower-than", -1)
    pauses |= {
        "ping p99 ms": pings[int(len(pings) * 0.99)],
        "ping max ms": pings[-1],
        "longest command ms": slowest / 1e3,
    }


def _ping(line: Connection, url: str) -> None:
    pings = []
    with redis.Redis.from_url(url) as client:
        client.ping()
        line.send(READY)
        while not line.poll(_PING_EVERY_S):
            began = time.perf_counter()
            client.ping()
            pings.append((time.perf_counter() - began) * 1e3)
    line.recv()
    line.send(pings)


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _MOVES_WITHIN_S
    while not done():
        if time.monotonic() > until:
            raise RuntimeError(f"the queue did not move within {_MOVES_WITHIN_S:g} s")
        time.sleep(_LOOK_S)


# -- what each message costs ---------------------------------------------------------------------------------------


def _cost_tables(stage: Stage) -> Iterator[Table]:
    app = Celery("bench", broker=stage.url, set_as_current=False)
    app.conf.resilience_quarantine_enabled = False  # it would want a whole consumer around the gate
    levels = ["fallback", fallback_task("stand-in")]
    app.task(_work, name="stand-in", shared=False, circuit=False)
    try:
        resilience = Resilience(app)
        guarded = app.task(_work, name="guarded", shared=False, circuit=CIRCUIT, fallback=levels)
        patient = app.task(_work, name="patient", shared=False, circuit=CIRCUIT, fallback=levels, on_open="park")
        app.finalize()
        stock = Celery("stock", broker=stage.url, set_as_current=False)
        plain = stock.task(_work, name="plain", shared=False)
        yield _routing_table(stage, stock.amqp.router, app.amqp.router, plain, guarded)
        yield _gate_table(stage, app, resilience, [guarded, patient])
        resilience.breakers.close()
        stock.close()
    finally:
        app.close()
        kombu.pools.reset()


def _routing_table(stage: Stage, stock: Any, ours: Any, plain: Any, guarded: Any) -> Table:
    """The router alone, as a `delay()` calls it."""

    def route(name: str, router: Any, task: Any, *shut: str) -> Contender:
        batch = repeated(lambda: router.route({}, task.name, (1,), {}, task), stage.size.calls)

        def measure() -> dict[str, float]:
            with _shut(stage, guarded.app.resilience, shut):
                return timed(batch, stage.meter)

        return Contender(name, measure)

    contenders = [
        route("celery", stock, plain),
        route("celeriac: circuit closed", ours, guarded),
        route("celeriac: circuit open, to the fallback queue", ours, guarded, CIRCUIT),
        route("celeriac: two circuits open, to a substitute", ours, guarded, CIRCUIT, f"{CIRCUIT}@fallback"),
    ]
    return Table(
        "A task is routed when it is sent",
        "The router alone. Round trips and commands: of the watcher that keeps the view of the circuits, if any.",
        interleave(contenders, stage.size.rounds),
        "celery",
        "CPU us",
    )


def _gate_table(stage: Stage, app: Celery, resilience: Resilience, tasks: list[Any]) -> Table:
    """What the gate adds to a message that may pass."""
    consumer = SimpleNamespace(update_strategies=lambda: None, strategies={}, app=app)
    core = resilience._core
    gate = gate_for(core, resilience.exits)(consumer)
    message = SimpleNamespace(
        headers={"id": "1", "task": "guarded", "retries": 0}, delivery_info={"routing_key": QUEUE}
    )

    def strategy(*_: Any, **__: Any) -> None:
        """Celery's own, which is not measured."""

    def passing(name: str, called: Any) -> Contender:
        batch = repeated(lambda: called(message, None, None, None, None), stage.size.calls)
        return Contender(name, lambda: timed(batch, stage.meter))

    contenders = [passing("celery: no gate", strategy)]
    contenders += [
        passing(f"celeriac: {task.name}, circuit closed", gate._gated(task.name, strategy)) for task in tasks
    ]
    return Table(
        "A message passes the gate",
        "In the main process of a worker, before Celery sees it.",
        interleave(contenders, stage.size.rounds),
    )


@contextmanager
def _shut(stage: Stage, resilience: Resilience, circuits: tuple[str, ...]) -> Iterator[None]:
    """These circuits are open, and known to be."""
    order = {"actor": "bench", "reason": "to be measured"}
    stage.clear()
    for circuit in circuits:
        stage.breakers.force_open(circuit, **order)
    known = resilience.breakers.may_pass
    _wait(lambda: known(CIRCUIT) is not bool(circuits) and not any(map(known, circuits)))
    try:
        yield
    finally:
        for circuit in circuits:
            stage.breakers.reset(circuit, **order)
        _wait(lambda: all(map(known, circuits)))


def _work(a: int) -> None:
    """Never run."""
