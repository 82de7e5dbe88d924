"""`celery -A app parked ...` as operators and scripts use it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from resilience import Resilience
from resilience.router import plain_queue
from tests.integration.cli_kit import Cli, sentence

WHY = ("--reason", "the provider is back", "--actor", "ada")
LOT = "celeriac.parked.payments|celery"


@pytest.fixture
def app(shop_redis: str) -> Iterator[Celery]:
    """Five tasks of one circuit are parked, an urgent one among them, and one of another circuit and queue."""
    app = Celery("lot", broker=f"{shop_redis}/0", set_as_current=False)
    app.conf.resilience_health_enabled = False
    core = Resilience(app)._core
    for number in range(5):
        park = plain_queue(core.parking.queue_for("celery", "payments"))
        app.send_task("shop.charge", (number,), task_id=f"order-{number}", queue=park, priority=number // 4 * 3)
    app.send_task("shop.mail", ("sk-live-abcdef0123456789",), queue=plain_queue(core.parking.queue_for("mail", "smtp")))
    yield app
    core.breakers.close()
    app.close()


def lies_in(broker: redis.Redis, key: str) -> list[str]:
    """Ids of the tasks, those first that come first."""
    return [json.loads(text)["headers"]["id"] for text in reversed(broker.lrange(key, 0, -1))]


def test_list_and_show_tell_people_and_scripts_what_waits(cli: Cli, app: Celery) -> None:
    assert "payments" in cli("parked", "list").stdout
    rows = {row["circuit"]: row for row in json.loads(cli("parked", "list", "--json").stdout)}
    assert rows["payments"] == {
        "circuit": "payments", "home": "celery", "messages": 5, "state": "closed", "queue": LOT,
    }  # fmt: skip
    for name in ("payments", "celery"):
        shown = json.loads(cli("parked", "show", name, "--limit", "3", "--json").stdout)
        assert [row["task_id"] for row in shown] == ["order-0", "order-1", "order-2"]
    mail = cli("parked", "show", "smtp")
    assert "shop.mail" in mail.stdout
    assert "abcdef0123456789" not in mail.stdout


def test_release_puts_them_home_in_order_and_is_audited(cli: Cli, app: Celery, broker: redis.Redis) -> None:
    app.send_task("shop.charge", (9,), task_id="newer", queue="celery")
    done = cli("parked", "release", "payments", "--count", "2", *WHY)
    assert (done.returncode, done.stdout.strip()) == (0, "2 tasks went home")
    assert lies_in(broker, "celery") == ["order-0", "order-1", "newer"]
    assert lies_in(broker, LOT) == ["order-2", "order-3"]
    assert json.loads(cli("parked", "release", "--json", *WHY).stdout) == {"moved": 4, "stayed": {}}
    assert lies_in(broker, "celery\x06\x163") == ["order-4"]
    assert broker.llen("mail") == 1
    entries = json.loads(cli("parked", "audit", "--json").stdout)
    assert [(entry["circuit"], entry["waiting"]) for entry in entries] == [
        ("smtp", "1"), ("payments", "3"), ("payments", "5"),
    ]  # fmt: skip
    assert {(entry["actor"], entry["reason"]) for entry in entries} == {("ada", "the provider is back")}


def test_what_an_open_circuit_holds_stays_unless_it_is_forced(cli: Cli, app: Celery, broker: redis.Redis) -> None:
    cli("breaker", "force-open", "payments", *WHY)
    done = cli("parked", "release", "payments", *WHY)
    assert done.returncode == 1
    assert sentence(done) == (
        "Error: 0 tasks went home, others stay: payments: its circuit is forced_open, so workers would park it again. "
        "See `breaker show`, or take --force"
    )
    assert broker.llen(LOT) == 4
    assert cli("parked", "release", "payments", "--force", *WHY).returncode == 0
    assert not broker.exists(LOT)


def test_a_wrong_word_gets_one_sentence(cli: Cli, app: Celery) -> None:
    done = cli("parked", "show", "paymnts")
    assert done.returncode == 1
    assert sentence(done) == "Error: nothing is parked for paymnts: did you mean payments?"
    for words in (("release", "payments"), ("release", "payments", "--reason", " ")):
        done = cli("parked", *words)
        assert (done.returncode, sentence(done)[:6]) == (2, "Error:"), words
    away = cli("parked", "list", url="redis://127.0.0.1:1")
    assert (away.returncode, sentence(away)[:34]) == (1, "Error: the broker is not reachable")
    other = cli("parked", "list", CELERY_BROKER_URL="memory://")
    assert other.returncode == 2
    assert "on a Redis broker only" in sentence(other)
