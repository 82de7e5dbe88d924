"""An operator's word on the command line, and what other processes make of it: real commands, processes and Redis."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
import redis
from celery import Celery

from resilience import Breakers, CircuitOpenError
from resilience.testing import until
from signals.events import Result
from tests.integration.breaker_kit import MakeBreakers, fail, process, refused, says
from tests.integration.cli_kit import Cli, sentence
from tests.integration.conftest import StartWorkers

# Says when calls through circuit a begin to pass, and when they are refused.
WITNESS = """
    import sys, time
    from resilience import Breakers, CircuitOpenError
    breakers, last = Breakers.from_url(sys.argv[1]), ""
    while True:
        try:
            breakers.admit("a").settle()
            now = "admitted"
        except CircuitOpenError:
            now = "refused"
        if now != last:
            print(time.time(), now, flush=True)
            last = now
        time.sleep(0.005)
"""


def told(witness: subprocess.Popen[str]) -> tuple[float, str]:
    at, _, what = says(witness).partition(" ")
    return float(at), what


def audit(cli: Cli, *words: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(cli("breaker", "audit", "--json", *words).stdout)
    return entries


@pytest.fixture
def breakers(make: MakeBreakers, shop_redis: str) -> Breakers:
    """Circuits as another process of the fleet uses them."""
    return make(f"{shop_redis}/0")


# -- what other processes see --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "before", "after", "state"),
    [
        ("force-open", "admitted", "refused", "forced_open"),
        ("disable", "refused", "admitted", "disabled"),
        ("metrics-only", "refused", "admitted", "metrics_only"),
        ("reset", "refused", "admitted", "closed"),
    ],
)
def test_another_process_obeys_within_a_second(
    cli: Cli, breakers: Breakers, shop_redis: str, action: str, before: str, after: str, state: str
) -> None:
    fail(breakers, 5 if before == "refused" else 1)
    with process(WITNESS, f"{shop_redis}/0") as witness:
        assert told(witness)[1] == before
        done = cli("breaker", action, "a", "--reason", "a drill", "--actor", "ada")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"-> {state}, epoch " in done.stdout
        seen_at, what = told(witness)
    (entry,) = audit(cli)
    assert what == after
    assert seen_at - int(entry["id"].partition("-")[0]) / 1000 < 1.0
    assert (entry["action"], entry["circuit"], entry["actor"], entry["done"]) == (action, "a", "ada", "true")


def test_auto_lets_probes_of_another_process_decide_within_a_second(
    cli: Cli, breakers: Breakers, shop_redis: str
) -> None:
    breakers.force_open("a", actor="ada", reason="a drill")
    with process(WITNESS, f"{shop_redis}/0") as witness:
        assert told(witness)[1] == "refused"
        done = cli("breaker", "auto", "a", "--reason", "the drill is over")
        assert done.stdout.startswith("circuit a: forced_open -> half_open, epoch 3: only probes pass")
        seen_at, what = told(witness)
        assert what == "admitted"
        until(lambda: breakers.get_state("a") == "closed", within_s=5, what="three probes closed it")
    assert seen_at - int(audit(cli)[0]["id"].partition("-")[0]) / 1000 < 1.0


def test_a_worker_runs_nothing_of_a_circuit_that_is_forced_open_and_all_of_it_after_auto(
    cli: Cli, workers: StartWorkers, broker: redis.Redis, book: redis.Redis, shop_redis: str
) -> None:
    cli("breaker", "force-open", "payments", "--reason", "before the first call")
    workers({"name": "w1"})
    with Celery("till", broker=f"{shop_redis}/0", set_as_current=False) as till:
        for number in range(10):
            till.send_task("tasks.refund", [number])
    until(lambda: broker.llen("celeriac.parked.payments|celery") == 10, what="all of it is parked")
    assert book.llen("audited") == 0
    cli("breaker", "auto", "payments", "--reason", "the road is open")
    until(lambda: book.llen("audited") == 10, within_s=30, what="all of it has run")


# -- a time limit --------------------------------------------------------------------------------------------------


def test_when_the_time_of_force_open_is_over_the_circuit_is_probed(cli: Cli, breakers: Breakers) -> None:
    breakers.record_success("a")
    done = cli("breaker", "force-open", "a", "--reason", "a drill", "--ttl", "4s", "--json")
    forced = json.loads(done.stdout)
    assert (forced["state"], forced["before"], forced["done"], forced["new"]) == ("forced_open", "closed", True, False)
    assert 0 < forced["forced_for_s"] <= 4.0
    until(lambda: refused(breakers), within_s=3)
    permits = [until(lambda: permit_or_none(breakers), within_s=10) for _ in range(3)]
    assert all(permit.id for permit in permits), "leases, as in any half-open state"
    assert permit_or_none(breakers) is None, "and no fourth"
    assert breakers.snapshot("a")["reason"] == "forced_open time is over"
    for permit in permits:
        permit.settle()
    assert breakers.get_state("a") == "closed"


def permit_or_none(breakers: Breakers) -> Any:
    try:
        return breakers.admit("a")
    except CircuitOpenError:
        return None


@pytest.mark.parametrize(("action", "counted"), [("disable", 0), ("metrics-only", 10)])
def test_when_the_time_of_disable_or_metrics_only_is_over_the_circuit_is_closed_and_counts_anew(
    cli: Cli, breakers: Breakers, action: str, counted: int
) -> None:
    fail(breakers)
    assert refused(breakers)
    cli("breaker", action, "a", "--reason", "a drill", "--ttl", "4s")
    until(lambda: not refused(breakers), within_s=3)
    forced = breakers.snapshot("a")
    assert (forced["state"], forced["forced_for_s"] > 0) == (action.replace("-", "_").replace("able", "abled"), True)
    for _ in range(10):
        breakers.admit("a").settle(Result.FAILURE)
    assert breakers.snapshot("a")["calls"] == counted
    time.sleep(breakers.snapshot("a")["forced_for_s"])  # the time itself is what is tested
    until(lambda: not refused(breakers) and breakers.get_state("a") == "closed", within_s=10)
    assert (breakers.snapshot("a")["calls"], breakers.snapshot("a")["forced_for_s"]) == (0, None)


@pytest.mark.parametrize("ttl", ["10x", "-5m", "31d"])
def test_a_time_that_is_none_gets_one_sentence_and_changes_nothing(cli: Cli, breakers: Breakers, ttl: str) -> None:
    done = cli("breaker", "force-open", "a", "--reason", "r", "--ttl", ttl)
    assert done.returncode == 2
    assert any(rule in sentence(done) for rule in ("30s, 10m, 2h, 1d are right", "up to 2592000 s (30 days) is"))
    assert len(sentence(done)) < 250
    assert breakers.snapshots() == {}


@pytest.mark.parametrize("action", ["reset", "auto"])
def test_what_is_done_at_once_takes_no_time(cli: Cli, action: str) -> None:
    assert cli("breaker", action, "a", "--reason", "r", "--ttl", "10m").returncode == 2


# -- what is said --------------------------------------------------------------------------------------------------


def test_one_line_says_what_is_true_until_when_and_how_to_undo_it(cli: Cli, breakers: Breakers) -> None:
    breakers.record_success("a")
    (line,) = cli("breaker", "force-open", "a", "--reason", "vendor outage", "--ttl", "10m").stdout.splitlines()
    assert line.startswith("circuit a: closed -> forced_open, epoch 2: no call passes, until ")
    assert " UTC (in 9 min 59 s), then it is probed" in line or " UTC (in 10 min 0 s), then it is probed" in line
    assert line.endswith("; undo: celery -A tasks breaker auto a --reason ...")
    (line,) = cli("breaker", "disable", "a", "--reason", "vendor outage").stdout.splitlines()
    assert "forced_open -> disabled, epoch 3: every call passes and nothing is recorded, until further notice" in line
    (line,) = cli("breaker", "auto", "a", "--reason", "enough").stdout.splitlines()
    assert line == "circuit a: disabled -> closed, epoch 4: calls pass"
    (line,) = cli("breaker", "auto", "a", "--reason", "again").stdout.splitlines()
    assert line == "circuit a: closed, epoch 4: it was not forced, so nothing changed"


@pytest.mark.parametrize("action", ["force-open", "disable", "metrics-only"])
def test_a_circuit_that_nobody_used_can_be_forced_and_is_said_to_be_new(
    cli: Cli, breakers: Breakers, action: str
) -> None:
    breakers.record_success("chat-api")
    done = cli("breaker", action, "chat-apl", "--reason", "before the first call")
    assert done.returncode == 0
    assert "circuit chat-apl: new -> " in done.stdout
    assert "no call has used it yet, did you mean chat-api?" in done.stdout
    assert breakers.snapshot("chat-apl")["epoch"] == 2


@pytest.mark.parametrize("action", ["reset", "auto"])
def test_reset_and_auto_of_an_unknown_circuit_are_refused_with_a_hint(
    cli: Cli, breakers: Breakers, action: str
) -> None:
    breakers.record_success("chat-api")
    done = cli("breaker", action, "chat-apl", "--reason", "r")
    assert done.returncode == 2
    assert sentence(done) == "Error: no circuit chat-apl: did you mean chat-api?"
    assert breakers.snapshot("chat-apl") == {}


# -- what is refused, and what is written down ---------------------------------------------------------------------


@pytest.mark.parametrize("action", ["force-open", "auto"])
def test_with_an_old_epoch_nothing_changes_and_the_refusal_is_written_down(
    cli: Cli, breakers: Breakers, action: str
) -> None:
    fail(breakers)
    done = cli("breaker", action, "a", "--epoch", "1", "--reason", "too late", "--actor", "ada")
    assert done.returncode == 1
    assert sentence(done) == "Error: circuit a is open at epoch 2, not 1: it changed since you looked; look again"
    assert (breakers.get_state("a"), breakers.snapshot("a")["epoch"]) == ("open", 2)
    (entry,) = audit(cli)
    assert (entry["action"], entry["actor"], entry["done"], entry["epoch"]) == (action, "ada", "false", "2")


def test_with_the_epoch_that_was_seen_it_is_done(cli: Cli, breakers: Breakers) -> None:
    fail(breakers)
    assert cli("breaker", "force-open", "a", "--epoch", "2", "--reason", "r").returncode == 0
    assert breakers.get_state("a") == "forced_open"


def test_a_secret_in_a_reason_is_shown_nowhere(cli: Cli, breakers: Breakers) -> None:
    reason = "see https://ops:hunter2@vendor/status, token=abcdef0123456789, Authorization: Bearer abc.def.ghi"
    done = [cli("breaker", "force-open", "a", "--reason", reason)]
    done += [cli("breaker", *words) for words in (["audit"], ["audit", "--json"], ["list"], ["show", "a"])]
    done += [cli("breaker", "watch", "--json", "--for", "0.1")]
    everything = "".join(one.stdout + one.stderr for one in done)
    assert all(one.returncode == 0 for one in done)
    assert everything.count("[redacted]") >= 5
    assert not any(secret in everything for secret in ("hunter2", "abcdef0123456789", "abc.def.ghi"))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--reason", "  "], "needs an actor and a reason"),
        (["--reason", "\x1b"], "needs an actor and a reason"),
        (["--reason", "r", "--actor", " "], "needs an actor and a reason"),
        (["--reason", "x" * 201], "201 characters: at most 200"),
        (["--reason", "r", "--epoch", "0"], "Invalid value for '--epoch'"),
        ([], "Missing option '--reason'"),
    ],
)
def test_an_order_that_cannot_be_meant_gets_one_sentence(
    cli: Cli, breakers: Breakers, words: list[str], rule: str
) -> None:
    done = cli("breaker", "disable", "a", *words)
    assert done.returncode == 2
    assert rule in sentence(done)
    assert breakers.snapshots() == {}


def test_a_reason_that_is_no_text_is_kept_as_far_as_it_is(cli: Cli) -> None:
    assert cli("breaker", "disable", "a", "--reason", b"caf\xe9 closed").returncode == 0
    assert audit(cli)[0]["reason"] == "caf closed"


@pytest.mark.parametrize("words", [["disable", "a", "--reason", "r"], ["audit"], ["show", "a"]])
def test_without_redis_every_command_is_one_sentence_and_exit_code_1(cli: Cli, words: list[str]) -> None:
    done = cli("breaker", *words, url="redis://:hunter2@127.0.0.1:1")
    assert done.returncode == 1
    assert "the breaker store is not reachable" in sentence(done)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_the_audit_tells_people_who_did_what_to_which_circuit_for_how_long_why_and_with_what_outcome(
    cli: Cli, breakers: Breakers
) -> None:
    breakers.force_open("a", actor="ada", reason="vendor outage", ttl_s=600)
    breakers.reset("b", actor="bob", reason="was quicker", epoch=77)
    lines = cli("breaker", "audit").stdout.splitlines()
    (ada,) = (line for line in lines if "ada" in line)
    (bob,) = (line for line in lines if "bob" in line)
    assert " UTC " in ada
    words = " ".join(ada.split())
    assert "ada force-open a 10 min 0 s vendor outage done: forced_open, epoch 2" in words
    assert "bob reset b - was quicker refused: it had changed" in " ".join(bob.split())
    assert lines.index(bob) < lines.index(ada), "newest first"


def test_the_audit_of_one_circuit_leaves_out_the_others_before_it_counts(cli: Cli, breakers: Breakers) -> None:
    for name in ("a", "a", "b", "b", "b"):
        breakers.reset(name, actor="ada", reason=f"for {name}")
    assert [entry["circuit"] for entry in audit(cli, "--circuit", "a", "--count", "2")] == ["a", "a"]
    assert "No operator acted on circuit c yet." in cli("breaker", "audit", "--circuit", "c").stdout
