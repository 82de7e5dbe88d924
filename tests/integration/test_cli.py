"""What operators type: real commands, real Redis, exit codes that scripts can trust."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from celery import Celery

from resilience import Breakers, Resilience
from resilience.router import plain_queue
from tests.integration.cli_kit import ROOT, Cli, environment, sentence

RUNBOOKS = sorted((ROOT / "ops" / "runbooks").glob("*.md"))
CLOSE_THE_CIRCUIT = {"breaker-open", "manual-interventions"}


@pytest.fixture
def open_circuit(shop_redis: str) -> str:
    breakers = Breakers.from_url(f"{shop_redis}/0")
    for _ in range(5):
        breakers.record_failure("chat-api")
    breakers.close()
    return "chat-api"


def test_list_and_show_tell_people_and_scripts_the_state(cli: Cli, open_circuit: str) -> None:
    listed = cli("breaker", "list")
    assert listed.returncode == 0
    assert "chat-api" in listed.stdout
    assert "open" in listed.stdout
    shown = cli("breaker", "show", open_circuit, "--json")
    assert json.loads(shown.stdout)["state"] == "open"
    assert json.loads(shown.stdout)["policy"]["open_s"] == 60.0


def test_show_spells_out_what_is_off_and_what_is_a_set(cli: Cli, open_circuit: str) -> None:
    policy = {"ignore": ["timeout_error", "rate_limit"], "slow_call_s": 2.5}
    shown = cli("breaker", "show", open_circuit, RESILIENCE_CIRCUITS=json.dumps({open_circuit: policy}))
    assert shown.returncode == 0
    rules = dict(line.strip().split(" = ") for line in shown.stdout.splitlines() if " = " in line)
    assert rules["window_calls"] == "off"
    assert (rules["record"], rules["ignore"], rules["slow_call_s"]) == ("none", "rate_limit, timeout_error", "2.5")
    plain = cli("breaker", "show", open_circuit, "--json", RESILIENCE_CIRCUITS=json.dumps({open_circuit: policy}))
    assert json.loads(plain.stdout)["policy"]["ignore"] == ["rate_limit", "timeout_error"]


def test_a_list_of_nothing_says_so(cli: Cli) -> None:
    assert "No circuit was used yet" in cli("breaker", "list").stdout
    assert cli("breaker", "list", "--json").stdout.strip() == "{}"


def test_reset_closes_a_circuit_and_is_audited(cli: Cli, open_circuit: str) -> None:
    done = cli("breaker", "reset", open_circuit, "--reason", "repaired", "--actor", "ada")
    assert done.returncode == 0
    assert "open -> closed" in done.stdout
    (entry,) = json.loads(cli("breaker", "audit", "--json").stdout)
    assert (entry["actor"], entry["reason"], entry["circuit"]) == ("ada", "repaired", "chat-api")


def test_reset_with_a_stale_epoch_changes_nothing_and_exits_1(cli: Cli, open_circuit: str) -> None:
    done = cli("breaker", "reset", open_circuit, "--epoch", "77", "--reason", "r")
    assert done.returncode == 1
    assert "epoch 2, not 77" in sentence(done)
    assert json.loads(cli("breaker", "show", open_circuit, "--json").stdout)["state"] == "open"


def test_what_stands_in_a_name_or_a_reason_changes_no_table(cli: Cli, shop_redis: str) -> None:
    breakers = Breakers.from_url(f"{shop_redis}/0")
    breakers.force_open("db", actor="[bold]eve[/bold]", reason="[red]not red[/red] [link=x]y")
    breakers.close()
    with redis.Redis.from_url(f"{shop_redis}/0") as client:  # as an older release, or a stranger, may have written it
        client.hset("celeriac:v1:circuit:db", "reason", "\x1b[2Jgone \x07 [/] [red]not red[/red]\n[link=x]y")
        client.hset("celeriac:v1:circuits", "na\x1b[2Jme", "open 3 0")
        client.hset("celeriac:v1:circuit:na\x1b[2Jme", mapping={"state": "weird\x1b", "epoch": 3})
        fields = {"action": "force-open", "actor": "[bold]eve[/bold]\x1b", "circuit": "db", "ttl_s": "1e999"}
        client.xadd("celeriac:v1:audit", {**fields, "reason": "a\x1b[31mb", "done": "true"})
    shown = [cli("breaker", *words) for words in (["list"], ["show", "db"], ["audit"], ["watch", "--for", "0.1"])]
    for done in shown:
        assert (done.returncode, "\x1b" in done.stdout + done.stderr) == (0, False), done.stderr
    assert all("[red]not red[/red]" in done.stdout for done in shown)
    assert "na\\x1b[2Jme" in shown[0].stdout
    assert shown[2].stdout.count("[bold]eve[/bold]") == 2


def test_an_unknown_circuit_is_refused_with_a_hint(cli: Cli, open_circuit: str) -> None:
    done = cli("breaker", "show", "chat-apl")
    assert done.returncode == 2
    assert "did you mean chat-api?" in sentence(done)


@pytest.mark.parametrize("name", ["", "two words", "x" * 10_000, "curly{brace}", "line\nbreak"])
def test_a_hostile_circuit_name_gets_one_sentence(cli: Cli, name: str) -> None:
    done = cli("breaker", "reset", name, "--reason", "r")
    assert done.returncode == 2
    assert "is not usable" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 400


@pytest.mark.parametrize(
    "command", [("breaker", "list"), ("quarantine", "list"), ("pool", "status"), ("pool", "health")]
)
def test_an_unreachable_redis_is_one_sentence_and_exit_code_1(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, url="redis://:hunter2@127.0.0.1:1")
    assert done.returncode == 1
    assert "not reachable" in sentence(done)
    assert "hunter2" not in done.stdout + done.stderr


def test_health_of_an_empty_pool_is_exit_code_1(cli: Cli) -> None:
    assert cli("pool", "health").returncode == 1


def test_an_app_without_the_middleware_is_told_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from celery import Celery\napp = Celery('bare')\n")
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "bare", "breaker", "list"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "has no Celeriac" in sentence(done)


def test_an_unknown_setting_stops_a_worker_with_a_hint(shop_redis: str, tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text(
        "from celery import Celery\nfrom resilience import Resilience\n"
        "app = Celery('typo')\nResilience(app)\napp.conf.resilience_namespce = 'x'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "typo", "worker"],
        env=environment(shop_redis), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "did you mean resilience_namespace?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def full_quarantine(shop_redis: str) -> None:
    """Three messages of one task, one that nobody can read."""
    app = Celery("ward", broker=f"{shop_redis}/0", set_as_current=False)
    quarantine = Resilience(app).quarantine
    for number in range(3):
        told = {"task": "shop.charge", "id": f"order-{number}", "retries": 3}
        properties = {"delivery_tag": f"tag-{number}", "body_encoding": "base64"}
        raw = json.dumps({"body": "W10=", "headers": told, "properties": properties}).encode()
        quarantine.put_raw("celery", raw, "exhausted", "its 3 retries are spent", f"k:{number}")
    quarantine.put_raw("celery", b"\xff", "undecodable", "no text", "k:9")
    quarantine.close()
    app.close()


@pytest.fixture
def parked_work(shop_redis: str) -> None:
    """Twelve tasks wait for the circuit of the runbooks."""
    app = Celery("lot", broker=f"{shop_redis}/0", set_as_current=False)
    place = plain_queue(Resilience(app)._core.parking.queue_for("celery", "chat-api"))
    for number in range(12):
        app.send_task("tasks.chat", (f"question {number}",), queue=place)
    app.close()


@pytest.mark.parametrize("runbook", RUNBOOKS, ids=lambda path: path.stem)
def test_every_command_of_a_runbook_runs_and_a_circuit_in_hand_ends_closed(
    runbook: Path, shop_redis: str, open_circuit: str, full_quarantine: None, parked_work: None
) -> None:
    blocks = re.findall(r"```console\n(.*?)```", runbook.read_text("utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert commands, "a runbook without a command helps nobody"
    script = "set -e\n" + "\n".join(f"echo '>>' {number}\n{line}" for number, line in enumerate(commands))
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(shop_redis), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout[-500:]
    assert f">> {len(commands) - 1}" in done.stdout
    if runbook.stem in CLOSE_THE_CIRCUIT:
        breakers = Breakers.from_url(f"{shop_redis}/0")
        assert breakers.get_state(open_circuit) == "closed"
        breakers.close()
