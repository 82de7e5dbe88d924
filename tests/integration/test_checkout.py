"""Safe checkout: a worker without its resource takes no tasks, and what it cannot run runs elsewhere unharmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from resilience.local.redis_server import RedisServer
from resilience.testing import until
from resilience.workers.turned_away import ENOUGH, HEADER
from tests.integration.cli_kit import Cli
from tests.integration.forge_kit import Forge, forge

__all__ = ["forge"]


STOCK = {"RESILIENCE_TRANSPORT_ENABLED": "0"}


@pytest.mark.parametrize(
    ("pool", "env"), [("prefork", {}), ("threads", {}), ("threads", STOCK)], ids=["prefork", "threads", "stock"]
)
def test_a_worker_that_loses_its_resource_under_load_harms_no_task_and_comes_back_with_it(
    pool: str, env: dict[str, str], forge: Forge
) -> None:
    first, second = (forge.worker(name, pool=pool, FORGE_CHECKS="3", **env) for name in "ab")
    first.wait_ready()
    second.wait_ready()
    forge.send("forge", *range(100))
    until(lambda: forge.forged("a") and forge.forged("b"), what="both are at work")
    forge.book.set("dark:a", "1")
    forge.send("forge", *range(100, 350))
    forge.send("forge_once", *range(350, 390))
    forge.send("commission", 390)
    forge.until_out("a", "its check fire fails: the probe said no")
    assert "takes no tasks: a task found it not ready: NotReadyError: the fire is out" in first.log()
    before = forge.forged("a")
    until(lambda: forge.forged("a", "b") == list(range(400)), what="every task ran, once")
    assert forge.forged("a") == before
    until(lambda: forge.book.get("total") == str(sum(range(390, 400))), what="so did the body of a chord")
    assert set(forge.book.lrange("retries", 0, -1)) == {"0"}, "no retry was spent"
    assert forge.book.llen("refused:a") < 20, "it left with the first task that found it"

    forge.book.delete("dark:a")
    until(lambda: not forge.why_out("a"), what="it is back")
    more = iter(range(400, 2000))

    def shares() -> bool:
        forge.send("forge", *(next(more) for _ in range(10)))
        return len(forge.forged("a")) > len(before)

    until(shares, what="they share again")
    sent = next(more)
    until(lambda: forge.forged("a", "b") == list(range(sent)), what="every task ran, once")


def test_while_no_worker_has_its_resource_tasks_wait_and_none_fails_also_when_a_check_hangs(
    forge: Forge, cli: Cli
) -> None:
    forge.book.mset({"dark:a": "1", "hangs:b": "1", "dark:without": "1"})
    fleet = [forge.worker(name, pool="threads", FORGE_CHECKS="0.5") for name in "ab"]
    options = {"queue": "without", "FORGE_CHECKS": "0.5", "FORGE_DENIES": "1", "RESILIENCE_CHECKOUT_ENABLED": "0"}
    for worker in [*fleet, forge.worker("without", pool="threads", **options)]:
        worker.wait_ready()
    forge.send("forge", *range(20))
    forge.send("forge", *range(20), queue="without")
    forge.until_out("a", "the probe said no")
    forge.until_out("b", "no answer for")
    asked = cli("pool", "health")
    assert (asked.returncode, "a@test (out of rotation: its check fire fails: the probe said no)" in asked.stdout) == (
        1,
        True,
    )
    until(lambda: forge.book.llen("refused:without") == 20, what="without the mechanism all are taken, and fail")
    assert forge.queued == 20, "they were out before they could take one"
    forge.book.delete("dark:a", "hangs:b")
    until(lambda: forge.forged("a", "b") == list(range(20)), what="all ran")
    assert forge.book.llen("refused:a") + forge.book.llen("refused:b") == 0


SLOTS = 2
"""Processes of a worker's pool."""


def test_tasks_of_a_worker_whose_pool_processes_die_at_birth_run_elsewhere_and_it_returns_when_one_lives(
    forge: Forge,
) -> None:
    cursed = [forge.worker("a"), forge.worker("without", queue="without", RESILIENCE_CHECKOUT_ENABLED="0")]
    for worker in cursed:
        worker.wait_ready()
    forge.book.mset({"cursed:a": "1", "cursed:without": "1"})
    for worker in cursed:
        for child in worker.children():
            child.kill()
    forge.send("forge", *range(20))
    forge.send("forge", *range(5), queue="without")
    forge.until_out("a", "none of its pool's processes takes tasks")
    # a task that Celery wrote to a process which died before it read it waits in the pool for the next one
    until(lambda: forge.queued >= 20 - SLOTS, what="it gave back what no process was given")
    forge.worker("b").wait_ready()
    until(lambda: len(forge.forged("b")) >= 20 - SLOTS, what="that ran elsewhere")
    assert not forge.forged("a")
    assert not forge.broker.llen("without"), "without the mechanism they lie in a worker that cannot run them"
    forge.book.delete("cursed:a")
    until(lambda: not forge.why_out("a"), what="its pool lives again")
    forge.send("hold", *range(20, 40))
    forge.book.set("go", "1")
    until(lambda: forge.forged("a", "b") == list(range(40)), what="all ran")
    assert forge.forged("a")


@pytest.fixture
def old_forge(tmp_path: Path) -> Iterator[Forge]:
    """On a server that does not know the command that our transport needs, as one before 6.2 does not."""
    with RedisServer(directives={"rename-command": 'LMOVE ""'}) as server:
        fleet = Forge(f"redis://127.0.0.1:{server.port}", tmp_path)
        yield fleet
        fleet.close()


@pytest.mark.parametrize("which", ["forge", "old_forge"])
def test_a_task_that_was_turned_away_often_and_long_enough_fails_like_any_other(
    request: pytest.FixtureRequest, which: str
) -> None:
    forge: Forge = request.getfixturevalue(which)
    forge.worker("a", pool="threads", FORGE_CHECKS="0.2").wait_ready()
    nearly = {HEADER: [ENOUGH - 1, 0.0]}
    result = forge.customers.send_task("tasks.never", (1,), headers=nearly)
    with pytest.raises(Exception, match="no fire is hot enough") as caught:
        result.get(timeout=20)
    assert type(caught.value).__name__ == "NotReadyError"
    assert forge.book.llen("tried") == 2, "once more it was passed on"
