"""`python -m tests.bench`: all benches or some, on a Redis of their own; tables for people, JSON for scripts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from resilience.local.redis_server import RedisServer
from tests.bench.harness import LONG, QUICK, console_for_tables, environment, show, write_json

BENCHES = (
    "breaker",
    "crowd",
    "firehose",
    "propagation",
    "publish",
    "throughput",
    "latency",
    "backlog",
    "prefetch",
    "failover",
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("bench", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: shows that they run, no more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE, too")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.bench if name not in BENCHES]
    if unknown:
        parser.error(f"no bench {unknown[0]}: there are {', '.join(BENCHES)}")
    run(given.bench or list(BENCHES), quick=given.quick, json_path=given.json)
    return 0


def run(benches: list[str], *, quick: bool, json_path: Path | None) -> None:
    from importlib import import_module

    from tests.bench.peers import Stage

    console = console_for_tables()
    tables = []
    with RedisServer() as server, Stage(server.url(), QUICK if quick else LONG) as stage:
        environ = environment(server.url())
        console.print(", ".join(f"{name}: {value}" for name, value in environ.items()), highlight=False)
        console.print("Each figure: median (lowest .. highest) of the rounds; one number where all rounds agree.\n")
        for bench in benches:
            for table in import_module(f"tests.bench.{bench}").tables(stage):
                tables.append(table)
                show(table, console)
    if json_path is not None:
        write_json(json_path, environ, tables)


if __name__ == "__main__":
    sys.exit(main())
