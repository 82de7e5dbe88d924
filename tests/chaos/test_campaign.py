"""The kill campaign in small: the same code and the same verdicts as `make chaos`, and proof that it finds losses."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience.local.redis_server import RedisServer
from resilience.testing import WorkerProcess, until
from tests.chaos.__main__ import main, plans
from tests.chaos.fleet import CODE, MILL
from tests.chaos.record import Mark
from tests.chaos.round import Outcome, Plan, play

POOLS = ("prefork", "threads", "solo")


@pytest.mark.timeout(180)
def test_kills_of_workers_of_all_pools_lose_nothing_and_repeat_only_what_ran(tmp_path: Path) -> None:
    outcome = play(Plan(number=0, seed=20, pools=POOLS, kills=6, tasks=600), tmp_path)
    assert outcome.findings == []
    assert outcome.kills >= 6
    assert outcome.jobs >= 600


@pytest.mark.timeout(180)
def test_the_same_campaign_finds_that_stock_delivery_loses(tmp_path: Path) -> None:
    stock = {"RESILIENCE_ENABLED": "false"}
    outcome = play(
        Plan(number=0, seed=5, pools=("threads", "solo"), kills=3, tasks=200, quiet_s=3.0, env=stock), tmp_path
    )
    assert "lost" in {finding["rule"] for finding in outcome.findings}, "what a killed stock worker held is not back"


@pytest.mark.timeout(60)
def test_what_idle_frozen_workers_got_runs_elsewhere_when_they_are_killed(tmp_path: Path) -> None:
    """Each was waiting, so the server moves a message to it although it stands still; its death gives it back."""
    with RedisServer() as server, RedisServer() as paper, redis.Redis.from_url(server.url()) as broker:
        url = f"redis://127.0.0.1:{server.port}"
        env = {"MILL_REDIS": url, "MILL_BOOK": paper.url(), "PYTHONPATH": CODE}
        idle = [WorkerProcess(MILL, pool, tmp_path, pool=pool, queues=f"for-{pool}", env=env) for pool in POOLS]
        rescuer = WorkerProcess(MILL, "rescuer", tmp_path, queues=",".join(f"for-{pool}" for pool in POOLS), env=env)
        workers = [*idle, rescuer]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.wait_ready()
            until(lambda: broker.info("clients")["blocked_clients"] >= 4, what="they wait idly")
            rescuer.stop()
            for worker in idle:
                worker.kill(signal.SIGSTOP)
            with Celery("stock", broker=f"{url}/0", set_as_current=False) as app:
                for number, pool in enumerate(POOLS):
                    app.send_task("tasks.grind", (number, 0), ignore_result=True, queue=f"for-{pool}")
            until(
                lambda: not any(broker.llen(f"for-{pool}") for pool in POOLS), what="the frozen workers have got them"
            )
            for worker in idle:
                worker.kill()
            rescuer.start()
            with redis.Redis.from_url(paper.url()) as book:
                until(lambda: len(ended(book)) == len(POOLS), what="all ran elsewhere")
                assert ended(book) == Counter({(number, rescuer.pid): 1 for number in range(len(POOLS))})
        finally:
            for worker in workers:
                worker.stop()


def ended(book: redis.Redis) -> Counter[tuple[int, int]]:
    marks = [Mark.read(line) for line in book.lrange("book", 0, -1)]
    return Counter((mark.number, mark.main) for mark in marks if mark.event == "end")


def test_a_resumed_campaign_plays_no_round_again_and_judges_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rounds = tmp_path / "rounds.jsonl", plans(36, 900, ["solo"], 3, 1)
    done = [asdict(Outcome(asdict(plan), 300, plan.kills, {}, 0, [0.5], [], [], [], 0, 9.0, [])) for plan in rounds]
    file.write_text("".join(json.dumps(outcome) + "\n" for outcome in done), "utf-8")
    arguments = ["--kills", "36", "--tasks", "900", "--pools", "solo", "--resume", str(file)]
    assert main(arguments) == 0
    assert "kills: 36" in capsys.readouterr().out
    assert len(file.read_text("utf-8").splitlines()) == 3
    done[1]["findings"] = [{"rule": "lost", "evidence": "job 7"}]
    file.write_text("".join(json.dumps(outcome) + "\n" for outcome in done), "utf-8")
    assert main(arguments) == 1
