"""What one call costs through a circuit: closed, failing, tripping it, probing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import pybreaker

from tests.bench.harness import Contender, Row, Table, interleave, repeated, timed
from tests.bench.peers import NEVER, OPEN_S, Call, Dependency, Peer, Stage, policy, succeed, succeed_async

REFERENCE = "pybreaker, memory"


def tables(stage: Stage) -> list[Table]:
    return [closed(stage), failure(stage), trip(stage), probe(stage)]


def closed(stage: Stage) -> Table:
    """Calls that succeed through a closed circuit, in every form that the peers have."""
    circuit = stage.breakers.circuit(stage.name(), policy(NEVER))
    admit, two_steps = stage.breakers.admit, stage.name()
    admit(two_steps).settle()
    memory = pybreaker.CircuitBreaker()

    async def in_async_block() -> None:
        async with circuit:
            pass

    forms: list[tuple[str, Call]] = [
        ("a bare call", succeed),
        ("celeriac: admit", partial(admit, two_steps)),
        ("celeriac: admit and settle", lambda: admit(two_steps).settle()),
        ("celeriac: with", lambda: _inside(circuit)),
        ("pybreaker, memory: with", lambda: _inside(memory.calling())),
    ]
    contenders = [_closed_form(stage, name, call) for name, call in forms]
    contenders += [_closed_form(stage, "a bare call, awaited", succeed_async, awaited=True)]
    guarded = circuit(succeed_async)
    contenders += [_closed_form(stage, "celeriac, async", guarded, awaited=True)]
    contenders += [_closed_form(stage, "celeriac, async with", in_async_block, awaited=True)]
    for peer in stage.peers:
        call = peer.circuit(Dependency(), NEVER)
        contenders.append(_closed_form(stage, peer.name, call, awaited=peer.awaited, remote=peer.remote))
    return Table(
        "A call that succeeds, circuit closed",
        "A plain name is the decorated function (pybreaker: call). Round trips: what the Redis server read, per call; "
        "commands: what it ran, in scripts too. CPU: of the calling process.",
        interleave(contenders, stage.size.rounds),
        REFERENCE,
        "CPU us",  # where no call waits for anything, the wall only adds what other programs took
    )


def failure(stage: Stage) -> Table:
    """Calls that fail and are counted; the circuit stays closed."""

    def prepared(peer: Peer, calls: int) -> Sequence[Call]:
        return [peer.circuit(Dependency(failing=True), NEVER)] * calls

    return Table(
        "A call that fails and is counted",
        "The error is classified, counted and raised on. In memory it is counted for one process only.",
        _prepared_calls(stage, prepared),
        "pybreaker, Redis",
    )


def trip(stage: Stage) -> Table:
    """The fifth failure, which opens the circuit."""

    def prepared(peer: Peer, calls: int) -> Sequence[Call]:
        return [_tripped(stage, peer, Dependency(failing=True), 4) for _ in range(calls)]

    return Table(
        "The failure that opens the circuit",
        "Each call is the fifth failure of a circuit of its own. Celeriac's round trips include its watcher's, which "
        "is told of the opening.",
        _prepared_calls(stage, prepared),
        "pybreaker, Redis",
    )


def probe(stage: Stage) -> Table:
    """The call that finds an open circuit ready for a probe, succeeds and closes it; ours: its admission too."""

    def prepared(peer: Peer, calls: int) -> Sequence[Call]:
        opened = []
        for _ in range(calls):
            dependency = Dependency(failing=True)
            opened.append(_tripped(stage, peer, dependency, 5))
            dependency.failing = False
        time.sleep(2 * OPEN_S)  # what is waited for is the passing of time itself
        return opened

    def admissions() -> dict[str, float]:
        stage.clear()
        names = [stage.name() for _ in range(stage.size.remote_calls)]
        for name in names:
            stage.breakers.circuit(name, policy(1))
            stage.breakers.record_failure(name)
        time.sleep(2 * OPEN_S)
        asks = [partial(stage.breakers.admit, name) for name in names]
        return timed(stage.batch(asks, awaited=False), stage.meter)

    return Table(
        "A probe",
        "The call that finds its open time over, succeeds and closes the circuit; before that celeriac asks for one of "
        "the fleet's permits. Its round trips include its watcher's, which is told of both transitions.",
        _prepared_calls(stage, prepared, [Contender("celeriac: admission alone", admissions)]),
        "pybreaker, Redis",
    )


def _inside(block: AbstractContextManager[object]) -> None:
    with block:
        pass


def _closed_form(stage: Stage, name: str, call: Call, *, awaited: bool = False, remote: bool = False) -> Contender:
    calls = stage.size.remote_calls if remote else stage.size.calls
    batch = stage.batch([call] * calls, awaited=True) if awaited else repeated(call, calls)
    return Contender(name, lambda: timed(batch, stage.meter))


def _prepared_calls(
    stage: Stage, prepare: Callable[[Peer, int], Sequence[Call]], more: Sequence[Contender] = ()
) -> tuple[Row, ...]:
    """Rows of all peers; what prepares the calls is neither timed nor counted."""

    def contender(peer: Peer) -> Contender:
        def measure() -> dict[str, float]:
            stage.clear()
            calls = prepare(peer, stage.size.remote_calls)
            return timed(stage.batch(calls, awaited=peer.awaited), stage.meter)

        return Contender(peer.name, measure)

    return interleave([*map(contender, stage.peers), *more], stage.size.rounds)


def _tripped(stage: Stage, peer: Peer, dependency: Dependency, failures: int) -> Call:
    """A call through a new circuit of threshold 5 that has seen so many failures."""
    call = peer.circuit(dependency, 5)
    stage.batch([call] * failures, awaited=peer.awaited)()
    return call
