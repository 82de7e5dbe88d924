"""The dashboard as a real process: Celeriac's page and API inside a real Flower, over HTTP, on a real Redis."""

from __future__ import annotations

import html
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from resilience import Breakers
from resilience.cli.dashboard import LEAVES_WITHIN_S
from resilience.local.orphans import bound_to_parent
from resilience.local.ports import free_port
from resilience.local.redis_server import RedisServer

pytestmark = pytest.mark.timeout(60)

STARTS_WITHIN_S = 20.0
SHOP = """
from celery import Celery
from resilience import Resilience

app = Celery("shop", broker={url!r}, backend={url!r})
Resilience(app)

@app.task(circuit="payments")
def charge():
    return 1
"""
# Flower asks the workers for events every 5 s; a test that needs such a question under way does not wait for it.
HURRY = "import flower.events\nflower.events.Events.events_enable_interval = 50\n"
STOCK_SHOP = 'from celery import Celery\napp = Celery("stock", broker={url!r})\n'
ALICE = ("alice", "open sesame")


def _celery(folder: Path, module: str, *argv: str, **environ: str) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWER_")}
    command = [sys.executable, "-m", "celery", "-A", module, *argv, "--address=127.0.0.1"]
    return subprocess.Popen(
        bound_to_parent(command),
        cwd=folder,
        env={**env, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    ends_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_at, f"{what}: not within {within_s:g} s"
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@contextmanager
def _dashboard(
    folder: Path, *options: str, prefix: str = "", command: str = "dashboard", **environ: str
) -> Iterator[httpx.Client]:
    """A dashboard of its own, on a free port, and a client of it that sends no login."""
    port = free_port()
    process = _celery(folder, "shop", command, f"--port={port}", *options, **environ)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{prefix}", timeout=10.0) as client:

            def answers() -> bool:
                assert process.poll() is None, process.stdout and process.stdout.read().decode()
                try:
                    return client.get("/healthcheck").status_code == 200
                except httpx.TransportError:
                    return False

            _until(answers, STARTS_WITHIN_S, "the dashboard answers")
            yield client
    finally:
        _stop(process)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP.format(url=redis_server.url()))
    (folder / "stock.py").write_text(STOCK_SHOP.format(url=redis_server.url()))
    return folder


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[httpx.Client]:
    """A dashboard that asks for a login."""
    with _dashboard(folder, f"--basic-auth={ALICE[0]}:{ALICE[1]}") as client:
        client.auth = httpx.BasicAuth(*ALICE)
        yield client


@pytest.fixture(scope="module")
def unguarded(folder: Path) -> Iterator[httpx.Client]:
    """A dashboard that asks nobody for anything, behind a prefix."""
    with _dashboard(folder, "--url_prefix=ops", prefix="/ops") as client:
        yield client


@pytest.fixture
def breakers(redis_server: RedisServer) -> Iterator[Breakers]:
    breakers = Breakers.from_url(redis_server.url(), timeout_s=2.0)
    yield breakers
    breakers.close()


def _opened(breakers: Breakers, name: str) -> int:
    """Open circuit `name`; the epoch that it is at."""
    for _ in range(5):
        breakers.record_failure(name)
    snapshot = breakers.snapshot(name)
    assert snapshot["state"] == "open"
    return int(snapshot["epoch"])


def _row(page: str, name: str) -> str:
    """The text of a circuit's line in the table."""
    found = re.search(rf'<tr data-circuit="{re.escape(name)}".*?</tr>', page, re.DOTALL)
    assert found is not None, f"no line for circuit {name}"
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found.group())).split())


def _alerts(page: str) -> list[str]:
    """What the page says in its visible boxes."""
    found = re.findall(r'<div class="alert [^>]*>(.*?)</div>', page, re.DOTALL)
    return [html.unescape(text).strip() for text in found if text.strip()]


def _form(name: str, epoch: int, reason: str, action: str = "reset", ttl: str = "") -> dict[str, str]:
    return {"name": name, "epoch": str(epoch), "reason": reason, "action": action, "ttl": ttl}


# -- the page ------------------------------------------------------------------------------------------------------


def test_an_open_circuit_is_shown_with_its_state_in_words_its_countdown_and_why(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "page-open")
    page = guarded.get("/breakers")
    assert page.status_code == 200
    assert re.search(r"page-open Open .* in (5\d s|1 min \d s) 1. .* 5 failures in a row", _row(page.text, "page-open"))
    assert f'name="epoch" value="{epoch}"' in page.text
    assert 'href="/breakers"' in guarded.get("/workers").text, "the tab is on Flower's own pages too"


def test_what_is_open_stands_above_what_is_closed(guarded: httpx.Client, breakers: Breakers) -> None:
    breakers.record_success("order-a")
    _opened(breakers, "order-b")
    names = re.findall(r'data-circuit="(order-.)"', guarded.get("/breakers").text)
    assert names == ["order-b", "order-a"]


def test_the_page_needs_nothing_from_another_host(guarded: httpx.Client) -> None:
    page = guarded.get("/breakers").text
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page)
    assert any("breakers.js" in address for address in loaded)
    assert all(address.startswith("/") for address in loaded)
    assert {guarded.get(address).status_code for address in loaded} == {200}


def test_the_live_part_is_what_the_browser_fetches_to_keep_the_page_fresh(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    _opened(breakers, "page-live")
    live = guarded.get("/breakers/live")
    assert live.status_code == 200
    assert live.headers["cache-control"] == "no-store"
    assert _row(live.text, "page-live").startswith("page-live Open")
    assert "<html" not in live.text


def test_a_reset_with_a_reason_closes_the_circuit_and_is_written_down_under_the_users_name(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "page-reset")
    page = guarded.post("/breakers", data=_form("page-reset", epoch, 'vendor says "fixed" <b>now</b>'))
    assert page.status_code == 200
    assert re.fullmatch(
        rf"Done at \S+ UTC: circuit page-reset: open -> closed, epoch {epoch + 1}: calls pass\.", _alerts(page.text)[0]
    )
    assert "<b>now" not in page.text, "what people type is escaped"
    assert breakers.get_state("page-reset") == "closed"
    entry = next(entry for entry in breakers.audit() if entry["circuit"] == "page-reset")
    assert (entry["actor"], entry["reason"]) == ("alice", 'vendor says "fixed" <b>now</b>')


def test_a_form_without_a_reason_is_refused_and_stays_open(guarded: httpx.Client, breakers: Breakers) -> None:
    epoch = _opened(breakers, "page-no-reason")
    page = guarded.post("/breakers", data=_form("page-no-reason", epoch, "  "))
    assert page.status_code == 400
    assert _alerts(page.text) == ["Reset needs an actor and a reason: who does it, and why."]
    assert page.text.count("<details open>") == 1
    assert breakers.get_state("page-no-reason") == "open"


def test_a_form_with_an_old_epoch_says_that_the_circuit_changed_and_keeps_the_reason(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    seen = _opened(breakers, "page-stale")
    breakers.reset("page-stale", actor="bob", reason="was quicker")
    now = _opened(breakers, "page-stale")
    page = guarded.post("/breakers", data=_form("page-stale", seen, "too late"))
    assert page.status_code == 409
    sentence = (
        f"Nothing was changed: circuit page-stale is open at epoch {now}, not {seen}: it changed since you looked"
    )
    assert _alerts(page.text)[0].startswith(sentence)
    assert 'value="too late"' in page.text
    assert f'name="epoch" value="{now}"' in page.text
    assert breakers.get_state("page-stale") == "open"


@pytest.mark.parametrize(
    ("action", "word", "state"),
    [
        ("force-open", "Forced open", "forced_open"),
        ("disable", "Disabled", "disabled"),
        ("metrics-only", "Metrics only", "metrics_only"),
    ],
)
def test_a_state_that_is_forced_for_a_time_is_shown_with_its_word_its_countdown_and_in_the_audit(
    guarded: httpx.Client, breakers: Breakers, action: str, word: str, state: str
) -> None:
    name = f"page-{action}"
    epoch = _opened(breakers, name)
    page = guarded.post("/breakers", data=_form(name, epoch, "vendor outage", action, "10m"))
    assert page.status_code == 200
    assert f": circuit {name}: open -> {state}, epoch {epoch + 1}: " in _alerts(page.text)[0]
    assert re.search(rf"{name} {word} .* ends in (10 min 0 s|9 min 5\d s) ", _row(page.text, name))
    shown = breakers.snapshot(name)
    assert (shown["state"], 590 < shown["forced_for_s"] <= 600) == (state, True)
    audit = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.text.partition("What operators did")[2])).split())
    assert f"alice : {action} {name} for 10 min 0 s vendor outage" in audit
    done = guarded.post("/breakers", data=_form(name, epoch + 1, "enough", "auto"))
    assert "epoch " in _alerts(done.text)[0]
    assert breakers.get_state(name) == ("half_open" if state == "forced_open" else "closed")


def test_without_a_time_a_forced_state_has_no_end_and_what_ends_it_is_offered_first(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "page-no-end")
    page = guarded.post("/breakers", data=_form("page-no-end", epoch, "vendor outage", "disable")).text
    assert "page-no-end Disabled" in _row(page, "page-no-end")
    assert "until further notice" in _row(page, "page-no-end")
    row = re.search(r'<tr data-circuit="page-no-end".*?</tr>', page, re.DOTALL)
    assert row is not None
    assert re.findall(r'<option value="([^"]*)"', row.group()) == [
        "", "auto", "reset", "force-open", "disable", "metrics-only",
    ]  # fmt: skip
    assert re.search(r'data-forced="[1-9]', page)


@pytest.mark.parametrize(
    ("action", "ttl", "sentence"),
    [
        ("", "", "Say what to do with the circuit: choose one of the list."),
        ("explode", "", "Say what to do with the circuit: choose one of the list."),
        ("disable", "soon", "'soon' is not a length of time: seconds above 0, or 30s, 10m, 2h, 1d are right."),
        ("reset", "10m", "Reset takes no time: it is done at once."),
        ("force-open", "31d", "Force-open for 2678400 s is not possible: above 0 and up to 2592000 s (30 days) is"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused_with_a_sentence_and_stays_open(
    guarded: httpx.Client, breakers: Breakers, action: str, ttl: str, sentence: str
) -> None:
    if breakers.get_state("page-rubbish") == "closed":
        _opened(breakers, "page-rubbish")
    epoch = breakers.snapshot("page-rubbish")["epoch"]
    page = guarded.post("/breakers", data=_form("page-rubbish", epoch, "kept words", action, ttl))
    assert page.status_code == 400
    assert _alerts(page.text)[0].startswith(sentence)
    assert 'value="kept words"' in page.text
    assert breakers.snapshot("page-rubbish")["epoch"] == epoch


def test_a_form_that_another_site_sends_is_refused(guarded: httpx.Client, breakers: Breakers) -> None:
    epoch = _opened(breakers, "page-foreign")
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    page = guarded.post("/breakers", data=_form("page-foreign", epoch, "mine"), headers=headers)
    assert page.status_code == 403
    assert breakers.get_state("page-foreign") == "open"


def test_recent_events_of_celeriac_are_shown(guarded: httpx.Client, breakers: Breakers) -> None:
    epoch = _opened(breakers, "page-event")
    guarded.post("/breakers", data=_form("page-event", epoch, "an event"))
    line = "page-event: open → closed, reset by alice: an event"
    _until(lambda: line in guarded.get("/breakers/live").text, 5.0, "the event is on the page")


# -- the API -------------------------------------------------------------------------------------------------------


def test_the_api_gives_every_circuit_and_one_by_name(guarded: httpx.Client, breakers: Breakers) -> None:
    _opened(breakers, "api/v1:read")
    circuits = guarded.get("/api/breakers").json()["breakers"]
    one = guarded.get("/api/breakers/api%2Fv1:read").json()
    assert circuits["api/v1:read"]["state"] == "open"
    assert (one["name"], one["state"], one["opens"]) == ("api/v1:read", "open", 1)


def test_the_api_resets_at_the_epoch_that_was_seen_and_answers_409_for_another(
    guarded: httpx.Client, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "api-reset")
    stale = guarded.post("/api/breakers/api-reset/reset", json={"reason": "script", "epoch": epoch - 1})
    assert (stale.status_code, "look again" in stale.json()["error"]) == (409, True)
    assert breakers.get_state("api-reset") == "open"
    done = guarded.post("/api/breakers/api-reset/reset", json={"reason": "script", "epoch": epoch})
    answer = done.json()
    assert (done.status_code, answer["name"], answer["action"], answer["done"]) == (200, "api-reset", "reset", True)
    assert (answer["before"], answer["state"], answer["epoch"], answer["new"]) == ("open", "closed", epoch + 1, False)
    assert breakers.get_state("api-reset") == "closed"
    actors = [entry["actor"] for entry in breakers.audit() if entry["circuit"] == "api-reset"]
    assert actors == ["alice", "alice"]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{}",
            b"[]",
            b"{",
            b'{"reason": 1}',
            b'{"reason": "x", "epoch": "1"}',
            b'{"reason": "%s"}' % (b"x" * 201),
        ),
        *(b'{"reason": "x", "ttl_s": "10m"}', b'{"reason": "x", "ttl_s": true}', b'{"reason": "x", "ttl": 60}'),
        b'{"reason": "x", "ttl_s": 60}',  # a reset takes no time
    ],
)
def test_a_wish_that_cannot_be_read_is_answered_with_400_and_a_sentence(
    guarded: httpx.Client, breakers: Breakers, body: bytes
) -> None:
    breakers.record_failure("api-wish")
    answer = guarded.post("/api/breakers/api-wish/reset", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].count(".") >= 1


def test_the_api_forces_a_state_for_a_time_and_ends_it(guarded: httpx.Client, breakers: Breakers) -> None:
    epoch = _opened(breakers, "api-force")
    for action, state in (("force-open", "forced_open"), ("disable", "disabled"), ("metrics-only", "metrics_only")):
        wish = {"reason": "script", "epoch": epoch, "ttl_s": 90}
        answer = guarded.post(f"/api/breakers/api-force/{action}", json=wish)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        assert 80 < answer.json()["forced_for_s"] <= 90
        assert guarded.post(f"/api/breakers/api-force/{action}", json=wish).status_code == 409
        epoch += 1
    assert guarded.post("/api/breakers/api-force/auto", json={"reason": "script"}).json()["state"] == "closed"
    entries = [entry for entry in breakers.audit() if entry["circuit"] == "api-force"]
    assert [(entry["action"], entry["ttl_s"], entry["done"]) for entry in reversed(entries)] == [
        ("force-open", "90", "true"), ("force-open", "90", "false"),
        ("disable", "90", "true"), ("disable", "90", "false"),
        ("metrics-only", "90", "true"), ("metrics-only", "90", "false"),
        ("auto", "", "true"),
    ]  # fmt: skip


def test_the_api_forces_a_circuit_that_nobody_used_and_says_so(guarded: httpx.Client, breakers: Breakers) -> None:
    answer = guarded.post("/api/breakers/api-new/force-open", json={"reason": "before the first call"})
    assert (answer.status_code, answer.json()["new"], answer.json()["before"]) == (200, True, None)
    assert breakers.get_state("api-new") == "forced_open"
    assert guarded.post("/api/breakers/not%20a%20name/disable", json={"reason": "r"}).status_code == 404


def test_a_secret_in_a_reason_is_on_no_page(guarded: httpx.Client, breakers: Breakers) -> None:
    breakers.record_success("api-secret")
    wish = {"reason": "see https://ops:hunter2@vendor/status"}
    assert guarded.post("/api/breakers/api-secret/disable", json=wish).status_code == 200
    shown = guarded.get("/breakers").text + guarded.get("/api/breakers").text
    assert "https://ops:[redacted]@vendor/status" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("name", ["nobody-used-it", "not a name", "%3Cscript%3E"])
def test_a_circuit_that_nobody_used_is_404_and_is_not_made_by_asking(
    guarded: httpx.Client, breakers: Breakers, name: str
) -> None:
    assert guarded.get(f"/api/breakers/{name}").status_code == 404
    for action in ("reset", "auto"):
        assert guarded.post(f"/api/breakers/{name}/{action}", json={"reason": "typo"}).status_code == 404
    assert breakers.snapshots(["nobody-used-it"]) == {}


def test_without_the_password_nothing_is_shown_and_nothing_is_reset(guarded: httpx.Client, breakers: Breakers) -> None:
    epoch = _opened(breakers, "wrong-password")
    mallory = httpx.BasicAuth("alice", "guess")
    assert guarded.get("/breakers", auth=mallory).status_code == 401
    assert guarded.get("/breakers/live", auth=mallory).status_code == 401
    assert guarded.get("/api/breakers", auth=mallory).status_code == 401
    page = guarded.post("/breakers", data=_form("wrong-password", epoch, "x"), auth=mallory)
    api = guarded.post("/api/breakers/wrong-password/reset", json={"reason": "x"}, auth=mallory)
    force = guarded.post("/api/breakers/wrong-password/disable", json={"reason": "x"}, auth=mallory)
    assert (page.status_code, api.status_code, force.status_code) == (401, 401, 401)
    assert breakers.get_state("wrong-password") == "open"


# -- without a login -----------------------------------------------------------------------------------------------


def test_behind_a_prefix_every_address_on_the_page_works(unguarded: httpx.Client, breakers: Breakers) -> None:
    _opened(breakers, "prefixed")
    page = unguarded.get("/breakers")
    assert page.status_code == 200
    assert 'data-url="/ops/breakers/live"' in page.text
    assert unguarded.get("/breakers/live").status_code == 200
    assert unguarded.get("/breakers/static/breakers.js").status_code == 200
    assert 'src="/ops/breakers/static/breakers.js"' in page.text


def test_without_a_login_the_page_can_be_read_and_resets_are_refused(
    unguarded: httpx.Client, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "no-login")
    shown = unguarded.get("/breakers").text
    assert "<form" not in shown
    assert _alerts(shown) == [
        "Changes are off: this Flower has no login. Start it with --basic-auth=USER:PASSWORD for them."
    ]
    assert unguarded.post("/breakers", data=_form("no-login", epoch, "x")).status_code == 403
    assert unguarded.post("/breakers", data=_form("no-login", epoch, "x", "disable")).status_code == 403
    api = unguarded.post("/api/breakers/no-login/disable", json={"reason": "x"})
    assert api.status_code == 401
    assert "FLOWER_UNAUTHENTICATED_API" in api.json()["error"]
    assert breakers.get_state("no-login") == "open"


def test_an_api_that_was_opened_to_everybody_writes_down_flower_and_read_only_still_refuses(
    folder: Path, breakers: Breakers
) -> None:
    epoch = _opened(breakers, "opened-api")
    wish = {"reason": "script", "epoch": epoch}
    with _dashboard(folder, "--read_only", FLOWER_UNAUTHENTICATED_API="true") as client:
        for action in ("reset", "force-open", "disable", "metrics-only", "auto"):
            assert client.post(f"/api/breakers/opened-api/{action}", json=wish).status_code == 403
    assert breakers.get_state("opened-api") == "open"
    with _dashboard(folder, FLOWER_UNAUTHENTICATED_API="true") as client:
        foreign = client.post(
            "/breakers", data=_form("opened-api", epoch, "x"), headers={"Origin": "http://evil.example"}
        )
        assert foreign.status_code == 403
        assert client.post("/api/breakers/opened-api/reset", json=wish).status_code == 200
    assert next(e["actor"] for e in breakers.audit() if e["circuit"] == "opened-api") == "flower"


# -- when something is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_while_redis_is_away_the_page_says_so_in_bounded_time_and_comes_back_with_it(
    guarded: httpx.Client, redis_server: RedisServer, how: str
) -> None:
    getattr(redis_server, how)()
    try:
        began = time.monotonic()
        page, live, api = (guarded.get(path) for path in ("/breakers", "/breakers/live", "/api/breakers"))
        reset = guarded.post("/api/breakers/any/reset", json={"reason": "x"})
        took_s = time.monotonic() - began
    finally:
        if how == "kill":
            redis_server.restart()
        else:
            redis_server.thaw()
    assert [answer.status_code for answer in (page, live, api, reset)] == [503] * 4
    sentence = _alerts(page.text)[0]
    assert sentence.startswith("Redis does not answer, so the circuits cannot be shown")
    assert live.text.startswith("Redis does not answer")
    assert "Traceback" not in page.text
    assert took_s < 4.0
    _until(lambda: guarded.get("/breakers").status_code == 200, 5.0, "the page is back")
    if how == "kill":
        assert "No circuit was used yet." in guarded.get("/breakers").text


def test_a_dashboard_that_knocks_at_a_dead_broker_still_stops_when_it_is_told_to(tmp_path: Path) -> None:
    with RedisServer() as server:
        (tmp_path / "shop.py").write_text(SHOP.format(url=server.url()) + HURRY)
        with _dashboard(tmp_path) as client:
            server.kill()
            _until(lambda: client.get("/breakers").status_code == 503, 5.0, "the page says that Redis is away")
            began = time.monotonic()
        assert time.monotonic() - began < LEAVES_WITHIN_S + 3.0


def _said(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=STARTS_WITHIN_S)
    return process.returncode, output.decode().strip()


def test_an_app_without_celeriac_is_told_what_to_add(folder: Path) -> None:
    code, said = _said(_celery(folder, "stock", "dashboard", f"--port={free_port()}"))
    assert code == 2
    assert said.startswith("Error: app stock has no Celeriac: name one that calls Resilience(app)")
    assert len(said.splitlines()) == 1


def test_an_occupied_port_is_one_sentence(folder: Path) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        code, said = _said(_celery(folder, "shop", "dashboard", f"--port={port}"))
    assert code == 1
    assert said == (
        f"Error: the dashboard cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another with --port=... or --address=..."
    )


def test_a_wrong_option_is_one_sentence(folder: Path) -> None:
    code, said = _said(_celery(folder, "shop", "dashboard", "--port=http"))
    assert code == 2
    assert said == "Error: Flower's option --port=http is wrong: invalid literal for int() with base 10: 'http'"


def test_the_stock_command_still_starts_and_has_no_page_of_ours(folder: Path) -> None:
    with _dashboard(folder, command="flower") as client:
        assert client.get("/workers").status_code == 200
        assert client.get("/breakers").status_code == 404
