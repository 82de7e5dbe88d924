"""`breaker watch` as operators and scripts run it: a live table, lines, JSON; with and without Redis; and its end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resilience import Breakers
from resilience.local.redis_server import RedisServer
from resilience.testing import until
from tests.integration.breaker_kit import MakeBreakers, fail
from tests.integration.cli_kit import ROOT, Cli, environment

WHO = {"actor": "ada", "reason": "a drill"}


@contextmanager
def watching(url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a script runs it, its output in a pipe."""
    with subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "breaker", "watch", *words],
        env=environment(url), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        try:
            yield watch
        finally:
            watch.kill()


def ends(watch: subprocess.Popen[str]) -> int:
    """Ctrl-C, and the exit code; the end is clean."""
    watch.send_signal(signal.SIGINT)
    _, said = watch.communicate(timeout=10)
    assert "Traceback" not in said
    return watch.returncode


def told(watch: subprocess.Popen[str]) -> dict[str, Any]:
    assert watch.stdout is not None
    line: dict[str, Any] = json.loads(watch.stdout.readline())
    return line


@pytest.fixture
def breakers(make: MakeBreakers, shop_redis: str) -> Breakers:
    return make(f"{shop_redis}/0")


def test_json_is_how_it_is_now_and_then_a_line_per_change(breakers: Breakers, shop_redis: str) -> None:
    breakers.record_success("a")
    with watching(shop_redis, "--json") as watch:
        now = told(watch)
        assert (now["kind"], now["name"], now["old"], now["new"]) == ("circuit-changed", "a", None, "closed")
        fail(breakers)
        opened = told(watch)
        assert (opened["old"], opened["new"], opened["reason"]) == ("closed", "open", "5 failures in a row")
        assert 50 < opened["ends_in_s"] < 70
        breakers.force_open("b", **WHO)
        forced = told(watch)
        assert (forced["name"], forced["new"], forced["reason"]) == ("b", "forced_open", "force-open by ada: a drill")
        assert ends(watch) == 0


def test_no_step_of_a_circuit_that_moves_fast_is_left_out(breakers: Breakers, shop_redis: str) -> None:
    breakers.record_success("a")
    with watching(shop_redis, "--json", "a") as watch:
        told(watch)
        breakers.force_open("b", **WHO)
        for act in (breakers.force_open, breakers.disable, breakers.metrics_only, breakers.reset):
            act("a", **WHO)  # type: ignore[operator]
        seen = [told(watch) for _ in range(4)]
        assert [line["new"] for line in seen] == ["forced_open", "disabled", "metrics_only", "closed"]
        assert [line["epoch"] for line in seen] == [2, 3, 4, 5]
        assert {line["name"] for line in seen} == {"a"}
        assert ends(watch) == 0


def test_a_redis_that_goes_and_comes_back_is_told_and_the_watch_goes_on(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    url = own_redis.url().removesuffix("/0")
    breakers = make(f"{url}/0")
    fail(breakers)
    with watching(url, "--json") as watch:
        assert told(watch)["new"] == "open"
        own_redis.kill()
        away = told(watch)
        assert (away["kind"], "Error" in away["error"]) == ("store-away", True)
        own_redis.restart()
        assert told(watch)["kind"] == "store-back"
        gone = told(watch)
        assert (gone["name"], gone["new"], gone["reason"]) == ("a", None, "Redis was emptied")
        until(lambda: force(breakers), within_s=5)
        assert told(watch)["new"] == "forced_open"
        assert ends(watch) == 0


def force(breakers: Breakers) -> bool:
    return not breakers.link.away and breakers.force_open("a", **WHO)


def test_a_redis_that_is_frozen_is_told_and_when_it_thaws_the_watch_goes_on(
    make: MakeBreakers, own_redis: RedisServer
) -> None:
    url = own_redis.url().removesuffix("/0")
    fail(make(f"{url}/0"))
    with watching(url) as watch:
        assert watch.stdout is not None
        assert "circuit a: open for " in watch.stdout.readline()
        own_redis.freeze()
        assert "Redis does not answer: " in watch.stdout.readline()
        own_redis.thaw()
        assert "Redis answers again" in watch.stdout.readline()
        assert ends(watch) == 0


def test_it_ends_by_itself_when_it_was_told_how_long(cli: Cli, breakers: Breakers) -> None:
    fail(breakers)
    began = time.monotonic()
    done = cli("breaker", "watch", "a", "never-used", "--for", "1s")
    assert time.monotonic() - began < 15
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert " UTC  circuit a: open for " in line
    assert line.endswith("epoch 2 (5 failures in a row)")
    assert done.stderr == "no call has used never-used yet: shown when one does (see `breaker list`)\n"


def test_without_redis_it_says_so_and_waits_for_it(cli: Cli) -> None:
    done = cli("breaker", "watch", "--for", "1s", "--json", url="redis://:hunter2@127.0.0.1:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["kind"] == "store-away"
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize("words", [["two words"], ["--for", "soon"]])
def test_what_cannot_be_watched_is_refused_in_one_sentence(cli: Cli, words: list[str]) -> None:
    done = cli("breaker", "watch", *words)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_on_a_terminal_it_is_a_table_that_stays_fresh_and_ends_with_ctrl_c(breakers: Breakers, shop_redis: str) -> None:
    breakers.record_success("calm")
    breakers.disable("loud", actor="eve", reason="[red]not red[/red] \x1b[2Jgone", ttl_s=600)
    with terminal(shop_redis, "watch") as (watch, screen):
        until(lambda: "disabled" in screen(), what="the table")
        assert screen().index("loud") < screen().index("calm"), "what is not closed stands above"
        assert "ends in 9 min" in screen()
        assert "[red]not red[/red]" in screen()
        fail(breakers, name="late")
        until(lambda: "late" in screen() and "probe in " in screen(), what="the table is fresh")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 0
    assert "Traceback" not in screen()
    assert "\x1b[2J" not in screen()
    assert screen().rstrip().endswith("\x1b[?25h"), "the cursor is back"


@contextmanager
def terminal(url: str, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """The command on a terminal of its own; `screen()` is all that it wrote so far."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    written = bytearray()

    def screen() -> str:
        try:
            while chunk := os.read(ours, 65_536):
                written.extend(chunk)
        except OSError:
            pass  # nothing more for now, or at its end
        return written.decode(errors="replace")

    env = {**environment(url), "COLUMNS": "160", "LINES": "40", "TERM": "xterm"}
    command = [sys.executable, "-m", "celery", "-A", "tasks", "breaker", *words]
    try:
        with subprocess.Popen(command, env=env, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as watch:
            os.close(theirs)
            try:
                yield watch, screen
            finally:
                watch.kill()
    finally:
        screen()
        os.close(ours)
