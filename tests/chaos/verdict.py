"""The verdicts: computed from what the tasks wrote down and what was done to their workers, from nothing else.

Each rule returns findings, a sentence of evidence each; none means that the rule held. `docs/chaos.md` says the rules
in words.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.record import Blow, Mark, Record

ACK_WITHIN_S = 5.0
"""A task that ended so long before its worker was killed must have been acknowledged."""

_JUST_S = 0.5
"""A child that was killed so soon after it had written an end may not have told its worker yet."""

List = tuple[str, int]


@dataclass(frozen=True)
class Finding:
    rule: str
    evidence: str


@dataclass(frozen=True)
class Repeat:
    """A job that began more often than once. `excused` when each further run has a cause."""

    number: int
    begins: tuple[Mark, ...]
    blows: tuple[Blow, ...]
    excused: bool


def verdicts(record: Record) -> list[Finding]:
    return [
        *lost(record),
        *condemned(record),
        *repeated(record),
        *early(record),
        *late_acks(record),
        *disordered(record),
        *overtaken(record),
    ]


def lost(record: Record) -> list[Finding]:
    """Every job ended, or lies in the quarantine, or waits for one that lies there."""
    kept = set(record.quarantined)
    for number, job in sorted(record.jobs.items()):
        if kept.intersection(job.after):
            kept.add(number)
    missing = [number for number in record.jobs if number not in record.ends and number not in kept]
    return [Finding("lost", f"{record.jobs[number]} never ended: {_history(record, number)}") for number in missing]


def condemned(record: Record) -> list[Finding]:
    """Only a job that so many workers held when they died as it takes lies in the quarantine."""
    deaths: Counter[int] = Counter()
    for blow in record.blows:
        if blow.kind in ("main", "group"):
            deaths.update(blow.held)
    return [
        Finding("condemned", f"{number} is in the quarantine after {deaths[number]} deaths: {_history(record, number)}")
        for number in sorted(record.quarantined)
        if deaths[number] <= record.deaths
    ]


# -- repeats ---------------------------------------------------------------------------------------------------------


def hits(record: Record) -> dict[int, list[Blow]]:
    """Which jobs were running, begun and not acknowledged, when their worker or child was hit."""
    found: dict[int, list[Blow]] = defaultdict(list)
    for blow in sorted(record.blows, key=lambda blow: blow.over):
        if blow.could_repeat():
            for number in _running(record, blow):
                found[number].append(blow)
    return found


def _running(record: Record, blow: Blow) -> set[int]:
    begun = [mark for mark in record.marks if mark.event == "begin" and mark.at <= blow.over]
    if blow.kind == "child":
        mine = [mark for mark in begun if mark.pid == blow.pid]
        last = max(mine, key=lambda mark: mark.at, default=None)  # a child runs one at a time
        return {last.number} if last is not None and not _ended_before(record, last, blow.began - _JUST_S) else set()
    mine = [mark for mark in begun if mark.main == blow.main]
    if blow.kind == "quit":
        return {mark.number for mark in mine if not _ended_before(record, mark, blow.began - _JUST_S)}
    return {mark.number for mark in mine if mark.number in blow.held}


def _ended_before(record: Record, begin: Mark, at: float) -> bool:
    end = record.end_of(begin)
    return end is not None and end.at < at


def repeats(record: Record) -> list[Repeat]:
    """All jobs that began more than once, each with the blows that it was running at.

    A job that others publish by their end is published again when one of those runs again; that is a cause, too.
    """
    struck = hits(record)
    found = []
    for number, begins in record.begins.items():
        if len(begins) < 2:
            continue
        job = record.jobs.get(number)
        published = 1 + sum(max(0, len(record.ends.get(before, ())) - 1) for before in (job.after if job else ()))
        blows = struck.get(number, [])
        further = begins[published:]
        excused = len(further) <= len(blows) and all(
            begin.at >= blow.began for begin, blow in zip(further, blows, strict=False)
        )
        found.append(Repeat(number, tuple(begins), tuple(blows), excused))
    return found


def repeated(record: Record) -> list[Finding]:
    """Only what was running at a blow ran again, once for each blow."""
    return [
        Finding("repeated", f"job {repeat.number} ran again without a cause: {_history(record, repeat.number)}")
        for repeat in repeats(record)
        if not repeat.excused
    ]


def early(record: Record) -> list[Finding]:
    """No job began before its countdown was over."""
    return [
        Finding("early", f"job {number} began {job.due - first.at:.3f} s before it was due")
        for number, job in record.jobs.items()
        if job.due and (first := record.begins.get(number, [None])[0]) is not None and first.at < job.due - 0.01
    ]


def ack_lags(record: Record) -> list[tuple[int, Blow, float]]:
    """Jobs that had ended when their worker was killed and were not acknowledged yet, and for how long."""
    found = []
    for number, blows in hits(record).items():
        for blow in blows:
            if blow.kind in ("child", "quit"):
                continue
            mine = [mark for mark in record.begins[number] if mark.main == blow.main and mark.at <= blow.over]
            end = record.end_of(mine[-1])
            if end is not None and end.at < blow.began:
                found.append((number, blow, blow.began - end.at))
    return found


def late_acks(record: Record) -> list[Finding]:
    """What ended is acknowledged soon; the time that its worker was frozen does not count."""
    return [
        Finding(
            "late ack", f"job {number} had ended {lag_s:.1f} s before {blow.kind} of {blow.main} and was still held"
        )
        for number, blow, lag_s in ack_lags(record)
        if lag_s > ACK_WITHIN_S + blow.frozen_s
    ]


# -- order -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _First:
    """A job's first begin. `way`: the other workers that had held its message before, in turn; (): it came straight.

    `fell_at`: the times of the blows at which they held it.
    """

    mark: Mark
    way: tuple[int, ...]
    fell_at: tuple[float, ...]


def _sequences(record: Record) -> dict[tuple[int, List], list[_First]]:
    """First begins in their order, by worker and list."""
    falls: dict[int, list[float]] = defaultdict(list)
    held: dict[int, dict[int, float]] = {number: dict(workers) for number, workers in record.seen.items()}
    for blow in record.blows:
        for number in blow.held:
            holders = held.setdefault(number, {})
            falls[number].append(blow.began)
            holders[blow.main] = min(blow.began, holders.get(blow.main, blow.began))
    found: dict[tuple[int, List], list[_First]] = defaultdict(list)
    for mark in sorted((begins[0] for begins in record.begins.values()), key=lambda mark: mark.at):
        job = record.jobs.get(mark.number)
        if job is not None and job.ordered and not mark.attempt:  # else its child was killed before it could say so
            others = {main: at for main, at in held.get(mark.number, {}).items() if main != mark.main and at <= mark.at}
            way = tuple(sorted(others, key=lambda main: others[main]))
            fell_at = tuple(sorted(at for at in falls[mark.number] if at <= mark.at))
            found[mark.main, (job.queue, job.priority)].append(_First(mark, way, fell_at))
    return found


def _tolerance(record: Record, main: int) -> int:
    """Of so many neighbours nobody can say which began first: each other slot may have taken one and not yet said so.

    A child that is killed may leave one that was on its way to it.
    """
    child_kills = sum(1 for blow in record.blows if blow.kind == "child" and blow.main == main)
    return record.slots.get(main, 1) - 1 + child_kills


def disordered(record: Record) -> list[Finding]:
    """A worker begins the jobs of a list in the order in which they were published.

    Judged apart: what came straight, and what came by way of each other worker: that one has its own order, in which
    what it took from a dead worker comes after what it had before. Within each of these the order holds.
    """
    found = []
    for (main, source), firsts in _sequences(record).items():
        apart: dict[tuple[tuple[int, ...], tuple[float, ...]], list[int]] = defaultdict(list)
        for first in firsts:
            apart[first.way, first.fell_at].append(first.mark.number)
        for (way, _), numbers in apart.items():
            found += [
                Finding(
                    "disordered",
                    f"worker {main}, list {source}, {_by(way)}: job {late} began after {len(younger)} younger, "
                    f"{younger[:5]}: {_history(record, late)}",
                )
                for late, younger in inversions(numbers, _tolerance(record, main)).items()
            ]
    return found


def _by(way: tuple[int, ...]) -> str:
    return f"by way of {', '.join(map(str, way))}" if way else "straight"


def inversions(numbers: Sequence[int], tolerance: int) -> dict[int, list[int]]:
    """Numbers that come after greater ones, with those; where no more than `tolerance` are missing, none is."""
    later: list[int] = []
    found: dict[int, list[int]] = {}
    for number in reversed(numbers):
        older = bisect_left(later, number)
        for late in later[:older] if older > tolerance else ():
            found.setdefault(late, []).insert(0, number)
        insort(later, number)
    return found


def overtaken(record: Record) -> list[Finding]:
    """What a dead worker had held comes back to the front: who began with it takes nothing younger before its rest.

    What had begun there does not count: it goes before all that its next worker had taken already.
    """
    found = []
    deaths = [blow for blow in record.blows if blow.kind in ("main", "group")]
    for (main, source), firsts in _sequences(record).items():
        for blow in deaths:
            waited = blow.held - _given_to_a_slot(record, blow)
            back = [
                place for place, first in enumerate(firsts) if first.way == (blow.main,) and first.mark.number in waited
            ]
            for place in range(back[0], back[-1]) if back else ():
                number = firsts[place].mark.number
                if record.seen.get(number, {}).get(main, blow.over) < blow.over:
                    continue  # it was there before, and is late: in prefork what was on its way to a killed child
                rest = [firsts[later].mark.number for later in back if later > place]
                rest = [older for older in rest if older < number]
                if not firsts[place].way and len(rest) > _tolerance(record, main):
                    found.append(
                        Finding(
                            "overtaken",
                            f"worker {main}, list {source}: job {number} began before {rest[:9]}, which had come back "
                            f"from {blow.main}; {_history(record, rest[0])}",
                        )
                    )
    return found


def _given_to_a_slot(record: Record, blow: Blow) -> set[int]:
    """What had begun, and of the rest the oldest, one for each slot: it may have been on its way there."""
    begun = {mark.number for mark in record.marks if mark.main == blow.main and mark.event == "begin"}
    rest = sorted(blow.held - begun, key=lambda number: record.seen.get(number, {}).get(blow.main, blow.began))
    return begun.union(rest[: record.slots.get(blow.main, 1)])


# -- figures ---------------------------------------------------------------------------------------------------------


def restart_times(record: Record, kinds: Sequence[str]) -> list[float]:
    """Seconds from a blow to the next run of each job that was running at it, where another worker was ready.

    Of the most urgent ones, which wait for nothing else; and without those that had died so often that they must wait
    until a worker has nothing else to do.
    """
    found = []
    urgent = {number: blows for number, blows in hits(record).items() if record.jobs[number].priority == 0}
    for number, blows in urgent.items():
        for deaths, blow in enumerate(blows, start=1):
            again = [begin.at for begin in record.begins[number] if begin.at > blow.over]
            if blow.kind in kinds and blow.rescued and again and deaths < record.deaths:
                found.append(again[0] - blow.over)
    return sorted(found)


def spread(values: Sequence[float]) -> dict[str, float]:
    """n, p50, p99 and max; {} of nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 3),
        "p99": round(p99, 3),
        "max": round(ordered[-1], 3),
    }


def kills_by_kind(record: Record) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for blow in record.blows:
        counted[blow.kind] += blow.kills
    return dict(counted)


def _history(record: Record, number: int) -> str:
    """All that is known of a job, in the order in which it happened."""
    told = [
        (mark.at, f"{mark.event} #{mark.attempt} in {mark.pid} of {mark.main}")
        for mark in record.marks
        if mark.number == number
    ]
    workers = {mark.main for mark in record.marks if mark.number == number}
    for blow in record.blows:
        if number in blow.held or blow.main in workers:
            held = "held" if number in blow.held else "not held"
            told.append((blow.over, f"{blow.kind} of {blow.pid} of {blow.main}, {held}"))
    return "; ".join(f"{at:.3f} {what}" for at, what in sorted(told)) or "nothing was ever heard of it"
