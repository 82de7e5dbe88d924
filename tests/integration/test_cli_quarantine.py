"""`celery -A app quarantine ...` as operators and scripts use it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.quarantine.desk import Quarantine
from tests.integration.cli_kit import Cli, sentence

WHY = ("--reason", "the provider is back", "--actor", "ada")


@pytest.fixture
def desk(shop_redis: str) -> Iterator[Quarantine]:
    """Two messages of one task, and one that nobody can read."""
    app = Celery("ward", broker=f"{shop_redis}/0", set_as_current=False)
    desk = Resilience(app).quarantine
    for number in (1, 2):
        told = {"task": "shop.charge", "id": f"order-{number}", "argsrepr": "('password=hunter2',)"}
        properties = {"delivery_tag": f"tag-{number}", "body_encoding": "base64"}
        raw = json.dumps({"body": "W10=", "headers": told, "properties": properties}).encode()
        desk.put_raw("celery", raw, "exhausted", "its 3 retries are spent \x1b[2J [red]x[/red]", f"k:{number}")
    desk.put_raw("celery", b"\xff\x1b", "undecodable", "no text", "k:9")
    yield desk
    desk.close()
    app.close()


def test_list_and_show_tell_people_and_scripts_and_hide_secrets(cli: Cli, desk: Quarantine) -> None:
    listed = cli("quarantine", "list", "--because", "exhausted")
    assert listed.returncode == 0
    assert listed.stdout.count("shop.charge") == 2
    assert "[red]x[/red]" in listed.stdout
    found = json.loads(cli("quarantine", "list", "--json").stdout)
    assert [row["id"] for row in found["messages"]] == ["3", "2", "1"]
    assert found["counts"]["exhausted"] == 2
    shown = [cli("quarantine", "show", "1"), cli("quarantine", "show", "1", "--json"), cli("quarantine", "show", "3")]
    for done in (listed, *shown):
        assert (done.returncode, "hunter2" in done.stdout, "\x1b" in done.stdout) == (0, False, False)
    assert json.loads(shown[1].stdout)["message"]["headers"]["id"] == "order-1"


def test_what_cannot_be_meant_is_exit_code_2_and_what_is_not_there_1(cli: Cli, desk: Quarantine) -> None:
    for words in (("show", "x"), ("list", "--because", "poisn"), ("replay", *WHY), ("discard", "1", "--all", *WHY)):
        done = cli("quarantine", *words)
        assert (done.returncode, sentence(done)[:6]) == (2, "Error:"), words
    for words in (("show", "99"), ("discard", "99", "--yes", *WHY), ("replay", "--task", "none", "--yes", *WHY)):
        assert cli("quarantine", *words).returncode == 1, words
    assert desk.count()["messages"] == 3


def test_nothing_is_done_unasked_where_nobody_can_be_asked(cli: Cli, desk: Quarantine) -> None:
    for order in ("replay", "discard"):
        done = cli("quarantine", order, "--all", *WHY)
        assert done.returncode == 2
        assert "say --yes" in sentence(done)
    assert desk.count()["messages"] == 3


def test_a_replay_says_what_went_and_what_stays_and_is_audited(cli: Cli, desk: Quarantine, broker: redis.Redis) -> None:
    done = cli("quarantine", "replay", "--all", "--yes", "--json", *WHY)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["moved"], list(said["stayed"])) == (["1", "2"], ["3"])
    assert broker.llen("celery") == 2
    (newest, *_) = json.loads(cli("quarantine", "audit", "--json").stdout)
    assert (newest["actor"], newest["reason"], newest["to"]) == ("ada", "the provider is back", "celery")
    assert cli("quarantine", "discard", "3", "--yes", *WHY).returncode == 0
    assert "is empty" in cli("quarantine", "list").stdout
