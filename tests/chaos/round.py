"""One round: a Redis, some workers, load, blows; then everything must end, and the verdicts are given."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tests.chaos.feeder import Feeder
from tests.chaos.fleet import Fleet, Watcher, at_of, contents, numbers_in
from tests.chaos.record import Mark, Record
from tests.chaos.verdict import Finding, ack_lags, kills_by_kind, repeats, restart_times, spread, verdicts

STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""How kombu names the lists of a queue's priorities."""

_PERMITTED = (
    (r"Process 'ForkPoolWorker-\d+' pid:\d+ exited with 'signal 9 \(SIGKILL\)'", "a pool child that was killed"),
    (r"WorkerLostError", "the task of a child that was killed, before it runs again"),
    (r"Process ForkPoolWorker-\d+\n(?s:.*)BrokenPipeError", "a child whose worker was killed while it forked"),
    (r"is in the quarantine|killed \d+ workers", "a task that was running at so many kills as to be taken for poison"),
)
_QUARANTINE = re.compile(rb".*:quarantine(:\w+)?")
_STAYS = (
    _QUARANTINE,  # judged by itself
    re.compile(rb"_kombu\.binding.*"),  # which queues there are: kombu's own, for ever
    re.compile(rb".*:workers:(seen|grace)"),  # when anybody beat last
    re.compile(rb".*:delayed:keeper"),  # who keeps the time for the others, for a second and a half
    re.compile(rb".*:delayed:front:.*"),  # a copy of what was released last, for an hour
)
_LINE = re.compile(r"^(?=\[\d{4}-\d\d-\d\d )", re.M)
_TROUBLE = re.compile(
    r"^\[[^]]*: (?:ERROR|CRITICAL)/|celeriac: (?:upkeep failed|pulse failed|pulse lost|others took)|^Traceback ", re.M
)
_DIED = re.compile(r"^\[([^:]*:\d+:\d+,\d+): .*worker \S*?:(\d+):\w+ died: (\d+) messages back", re.M)


@dataclass(frozen=True)
class Plan:
    """What a round is to be. `pools`: a worker of each; `prefetch`: Celery's multiplier; `env` goes to the workers."""

    number: int
    seed: int
    pools: tuple[str, ...]
    kills: int
    tasks: int
    appendonly: bool = False
    prefetch: int = 4
    backlog: int = 400
    quiet_s: float = 20.0
    deaths: int = 3
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A round's figures and findings, ready for JSON."""

    plan: dict[str, Any]
    jobs: int
    kills: int
    blows: dict[str, int]
    repeats: int
    restart_s: list[float]
    child_restart_s: list[float]
    ack_lag_s: list[float]
    back_s: list[float]
    quarantined: int
    took_s: float
    findings: list[dict[str, str]]


def play(plan: Plan, folder: Path) -> Outcome:
    """Play a round; the workers' logs are left in `folder`."""
    began = time.monotonic()
    chance = random.Random(f"{plan.seed}:{plan.number}")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(appendonly=plan.appendonly))
        paper = stack.enter_context(RedisServer())
        url = f"redis://127.0.0.1:{server.port}"
        broker = stack.enter_context(redis.Redis.from_url(f"{url}/0"))
        book = stack.enter_context(redis.Redis.from_url(paper.url()))
        env = {"MILL_PREFETCH": str(plan.prefetch), "RESILIENCE_POISON_DEATHS": str(plan.deaths), **plan.env}
        fleet = Fleet(list(plan.pools), url, paper.url(), folder, chance, env)
        watcher = stack.enter_context(Watcher(url))
        findings: list[Finding] = []
        try:
            feeder, kills = _under_fire(plan, fleet, url, broker, chance)
            record = _awaited(plan, fleet, feeder, watcher, book, broker)
            findings += verdicts(record)
            findings += _left_over(broker, "while the workers idle", plan.quiet_s)
        finally:
            findings += [Finding("crashed", sentence) for sentence in fleet.stop()]
        findings += _left_over(broker, "after the last warm stop", 0.5)
        findings += [Finding("left", f"key {key.decode()!r} after the last warm stop") for key in _unknown_keys(broker)]
        findings += _in_logs(fleet, record)
        if findings:
            _keep(record, folder)
    return Outcome(
        plan=asdict(plan),
        jobs=len(record.jobs),
        kills=kills,
        blows=kills_by_kind(record),
        repeats=len(repeats(record)),
        restart_s=[round(value, 3) for value in restart_times(record, ("main", "group"))],
        child_restart_s=[round(value, 3) for value in restart_times(record, ("child",))],
        back_s=sorted(round(seconds, 3) for seconds in _back(fleet, record)),
        quarantined=len(record.quarantined),
        ack_lag_s=sorted(round(lag_s, 3) for _, blow, lag_s in ack_lags(record) if not blow.frozen_s),
        took_s=round(time.monotonic() - began, 1),
        findings=[asdict(finding) for finding in findings],
    )


def _under_fire(plan: Plan, fleet: Fleet, url: str, broker: Any, chance: random.Random) -> tuple[Feeder, int]:
    """Start everything and hit until the planned number of SIGKILLs is reached."""
    for place in range(len(plan.pools)):
        fleet.start(place)
    kills = 0
    feeder = Feeder(
        url,
        f"{plan.seed}:{plan.number}:jobs",
        plan.tasks,
        plan.backlog,
        lambda: _waiting(broker),
        lambda: kills >= plan.kills,
    )
    feeder.start()
    until(lambda: len(fleet.ready()) == len(plan.pools), within_s=90, what="all workers ready")
    while kills < plan.kills:
        time.sleep(chance.uniform(0.05, 1.2))  # the random instant; whatever it meets must hold
        if chance.random() > 0.15:  # else also a worker that only begins may be hit
            until(lambda: len(fleet.ready()) >= min(2, len(plan.pools)), within_s=90, what="two workers ready")
        kills += fleet.strike()
    until(lambda: len(fleet.ready()) == len(plan.pools) or fleet.crashed(), within_s=90, what="all workers ready again")
    return feeder, kills


def _waiting(broker: Any) -> int:
    pipe = broker.pipeline(transaction=False)
    for queue in ("celery", "bulk"):
        for step in STEPS:
            pipe.llen(queue + step)
    return sum(pipe.execute())


def _awaited(plan: Plan, fleet: Fleet, feeder: Feeder, watcher: Watcher, book: Any, broker: Any) -> Record:
    """Until every job has ended, or nothing has happened any more for `quiet_s`."""
    ended: set[int] = set()
    marks: list[Mark] = []
    last = time.monotonic()
    while time.monotonic() - last < plan.quiet_s and not fleet.crashed():
        new = [Mark.read(line) for line in cast("list[bytes]", book.lrange("book", len(marks), -1))]
        if new or feeder.is_alive():
            last = time.monotonic()
        marks += new
        ended |= {mark.number for mark in new if mark.event == "end"}
        if not feeder.is_alive() and len(ended) == len(feeder.jobs):
            break
        time.sleep(0.1)
    feeder.join()
    watcher.stop()
    for main, number, at in fleet.received():
        workers = watcher.seen.setdefault(number, {})
        workers[main] = min(at, workers.get(main, at))
    if feeder.error is not None:
        raise RuntimeError("the publisher of the round failed") from feeder.error
    return Record(
        feeder.jobs, tuple(marks), fleet.judged(), fleet.slots, watcher.seen, _quarantined(broker), plan.deaths
    )


def _quarantined(broker: Any) -> frozenset[int]:
    keys = [key for key in cast("list[bytes]", broker.keys("*")) if _QUARANTINE.fullmatch(key)]
    return frozenset(number for key in keys for number in numbers_in(contents(broker, key)))


def _left_over(broker: Any, when: str, within_s: float) -> list[Finding]:
    """No key may hold a job's message for long once everything has ended."""
    until_s = time.monotonic() + within_s
    while holding := list(_holding(broker)):
        if time.monotonic() > until_s:
            return [Finding("left", f"{when} {key.decode()!r} holds {sorted(jobs)[:9]}") for key, jobs in holding]
        time.sleep(0.1)
    return []


def _holding(broker: Any) -> Iterable[tuple[bytes, set[int]]]:
    for key in sorted(cast("list[bytes]", broker.keys("*"))):
        jobs = set() if b":worker:" in key or _stays(key) else numbers_in(contents(broker, key))
        if jobs:
            yield key, jobs


def _unknown_keys(broker: Any) -> list[bytes]:
    keys = sorted(cast("list[bytes]", broker.keys("*")))
    return [key for key in keys if not _stays(key)]


def _stays(key: bytes) -> bool:
    return any(stays.fullmatch(key) for stays in _STAYS)


def _in_logs(fleet: Fleet, record: Record) -> list[Finding]:
    """Errors that nobody permitted, and burials of workers that nobody had hit."""
    hit = {blow.main for blow in record.blows if blow.kind != "child"}
    found = []
    for name, text in fleet.logs().items():
        found += [
            Finding("log", f"{name}: {line[:600]}")
            for line in _LINE.split(text)
            if _TROUBLE.search(line) and not any(re.search(permitted, line) for permitted, _ in _PERMITTED)
        ]
        for _, pid, moved in _DIED.findall(text):
            if int(pid) not in hit:
                found.append(Finding("buried alive", f"{name} took {moved} messages of {pid}, which nobody had hit"))
    return found


def _back(fleet: Fleet, record: Record) -> Iterable[float]:
    """Seconds from the death of each worker until another one had its messages back on their queues."""
    over = {blow.main: blow.over for blow in record.blows if blow.kind in ("main", "group") and blow.rescued}
    for text in fleet.logs().values():
        for when, pid, _ in _DIED.findall(text):
            if int(pid) in over:
                yield at_of(when) - over[int(pid)]


def _keep(record: Record, folder: Path) -> None:
    """All that the verdicts were computed from, for whoever looks for the cause."""
    rows = {
        "jobs": [asdict(job) for job in record.jobs.values()],
        "marks": [asdict(mark) for mark in record.marks],
        "blows": [{**asdict(blow), "held": sorted(blow.held)} for blow in record.blows],
        "slots": record.slots,
        "seen": record.seen,
        "quarantined": sorted(record.quarantined),
    }
    (folder / "record.json").write_text(json.dumps(rows), "utf-8")


def totals(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several rounds together."""
    blows: dict[str, int] = {}
    for outcome in outcomes:
        for kind, count in outcome["blows"].items():
            blows[kind] = blows.get(kind, 0) + count

    def all_of(name: str) -> list[float]:
        return [value for outcome in outcomes for value in outcome[name]]

    return {
        "rounds": len(outcomes),
        "jobs": sum(outcome["jobs"] for outcome in outcomes),
        "kills": sum(outcome["kills"] for outcome in outcomes),
        "kills by kind": blows,
        "lost": sum(finding["rule"] == "lost" for outcome in outcomes for finding in outcome["findings"]),
        "quarantined": sum(outcome["quarantined"] for outcome in outcomes),
        "ran again": sum(outcome["repeats"] for outcome in outcomes),
        "findings": sum(len(outcome["findings"]) for outcome in outcomes),
        "messages back after a worker's death, s": spread(all_of("back_s")),
        "restart after a worker's death, s": spread(all_of("restart_s")),
        "restart after a child's death, s": spread(all_of("child_restart_s")),
        "ended but not acknowledged at the kill, for s": spread(all_of("ack_lag_s")),
        "took s": round(sum(outcome["took_s"] for outcome in outcomes), 1),
    }
