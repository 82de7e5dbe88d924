"""`python -m tests.chaos`: the kill campaign in rounds, to be resumed; exit code 1 if any verdict failed."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.fleet import CONCURRENCY
from tests.chaos.round import Plan, play, totals

KILLS_A_ROUND = 12


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=210, metavar="N", help="SIGKILLs in all, at least (default 210)")
    parser.add_argument("--tasks", type=int, default=30_000, metavar="N", help="tasks in all, at least (default 30000)")
    parser.add_argument("--pools", default="prefork,threads,solo,mixed", help="in turn, a round each; mixed: all three")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="workers in a round (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="ROUND", help="play this round alone")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="append each round to FILE; skip those already there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write totals and all rounds to FILE")
    given = parser.parse_args(arguments)
    pools = given.pools.split(",")
    unknown = [pool for pool in pools if pool not in (*CONCURRENCY, "mixed")]
    if unknown:
        parser.error(f"no pool {unknown[0]}: there are {', '.join(CONCURRENCY)} and mixed")
    done = _read(given.resume)
    for plan in plans(given.kills, given.tasks, pools, given.workers, given.seed):
        if given.only not in (None, plan.number) or any(_same(outcome, plan) for outcome in done):
            continue
        done.append(_played(plan, given.resume))
    _show({"totals": totals(done)})
    if given.json is not None:
        given.json.write_text(json.dumps({"totals": totals(done), "rounds": done}, indent=2) + "\n", "utf-8")
    return 1 if any(outcome["findings"] for outcome in done) else 0


def plans(kills: int, tasks: int, pools: list[str], workers: int, seed: int) -> list[Plan]:
    """The rounds of a campaign: the same for the same arguments."""
    rounds = max(1, -(-kills // KILLS_A_ROUND))
    made = []
    for number in range(rounds):
        chance = random.Random(f"{seed}:{number}:plan")
        pool = pools[number % len(pools)]
        crew = list(CONCURRENCY) if pool == "mixed" else [pool]
        made.append(
            Plan(
                number=number,
                seed=seed,
                pools=tuple(crew[place % len(crew)] for place in range(workers)),
                kills=min(KILLS_A_ROUND, kills - number * KILLS_A_ROUND),
                tasks=-(-tasks // rounds),
                appendonly=chance.random() < 0.5,
                prefetch=chance.choice((1, 4, 4, 4, 30)),
                deaths=chance.choice((1, 3, 1000)),
            )
        )
    return made


def _played(plan: Plan, resume: Path | None) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="celeriac-chaos-"))
    outcome = asdict(play(plan, folder))
    if resume is not None:
        with resume.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome) + "\n")
    _show(
        {
            name: value
            for name, value in outcome.items()
            if name not in ("plan", "restart_s", "child_restart_s", "ack_lag_s", "back_s")
        },
        plan,
    )
    if outcome["findings"]:
        sys.stdout.write(f"  logs of the workers: {folder}\n")
    else:
        shutil.rmtree(folder)
    return outcome


def _read(resume: Path | None) -> list[dict[str, Any]]:
    if resume is None or not resume.exists():
        return []
    return [json.loads(line) for line in resume.read_text("utf-8").splitlines()]


def _same(outcome: dict[str, Any], plan: Plan) -> bool:
    return bool(outcome["plan"] == json.loads(json.dumps(asdict(plan))))


def _show(what: dict[str, Any], plan: Plan | None = None) -> None:
    if plan is not None:
        terms = f"prefetch {plan.prefetch}, AOF {plan.appendonly}, poison after {plan.deaths}"
        sys.stdout.write(f"round {plan.number}: {', '.join(plan.pools)}; {terms}\n")
    for name, value in what.items():
        if name == "findings":
            for finding in value[:40]:
                sys.stdout.write(f"  FOUND {finding['rule']}: {finding['evidence']}\n")
        elif isinstance(value, dict):
            sys.stdout.write(f"  {name}\n" + "".join(f"    {key}: {entry}\n" for key, entry in value.items()))
        else:
            sys.stdout.write(f"  {name}: {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
