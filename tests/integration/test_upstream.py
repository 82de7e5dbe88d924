"""The local chat server plays its script over real HTTP, and its log says what reached it."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from resilience.testing import until
from tasks.upstream import Script, ScriptError, Upstream, expected_answer, read_log

PROMPT = "What is said here? A short one. The longest sentence of the three is this one."


def ask(url: str, prompt: str = PROMPT, timeout: float = 5.0, **headers: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
    return httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=timeout)


def test_an_answer_can_be_checked_against_its_prompt() -> None:
    with Upstream() as up:
        reply = ask(up.url, **{"X-Request-Id": "r1"}).json()
    text = reply["choices"][0]["message"]["content"]
    assert text == expected_answer(PROMPT)
    assert "The longest sentence of the three" in text
    assert expected_answer(PROMPT) != expected_answer(PROMPT + " ")


def test_a_wrong_key_is_refused_in_the_error_shape_of_the_api() -> None:
    with Upstream(key="right") as up:
        refused = ask(up.url, Authorization="Bearer wrong")
        served = ask(up.url, Authorization="Bearer right")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert served.status_code == 200


def test_503_and_429_come_with_their_status_and_retry_after() -> None:
    with Upstream([{"for_s": 60, "mode": "503"}]) as up:
        assert ask(up.url).status_code == 503
    with Upstream([{"for_s": 60, "mode": "429", "retry_after_s": 2}]) as up:
        limited = ask(up.url)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "2")


def test_a_flaky_phase_fails_its_share() -> None:
    with Upstream([{"for_s": 60, "mode": "flaky", "error_share": 0.25}]) as up:
        codes = [ask(up.url).status_code for _ in range(8)]
    assert codes.count(503) == 2
    assert codes.count(200) == 6


def test_a_hang_lasts_until_the_client_gives_up_and_is_logged_without_a_status() -> None:
    with Upstream([{"for_s": 60, "mode": "hang"}]) as up:
        with pytest.raises(httpx.ReadTimeout):
            ask(up.url, timeout=0.2)
        until(lambda: bool(up.requests))
    assert up.requests[0].status is None
    assert up.requests[0].mode == "hang"


def test_a_stop_frees_clients_that_hang() -> None:
    with (
        Upstream([{"for_s": 60, "mode": "hang"}]) as up,
        socket.create_connection(("127.0.0.1", up.port)) as client,
    ):
        body = json.dumps({"messages": [{"role": "user", "content": PROMPT}]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        client.settimeout(5)
        until(lambda: up._started_at is not None)
        up.stop()
        assert client.recv(1) == b""
        up.stop = lambda: None  # type: ignore[method-assign]  # already stopped


def test_a_refusing_server_really_closes_its_port_and_opens_the_same_one_again() -> None:
    script = [{"for_s": 0.3, "mode": "ok"}, {"for_s": 0.6, "mode": "refuse"}]
    with Upstream(script) as up, httpx.Client() as client:
        body = {"messages": [{"role": "user", "content": PROMPT}]}
        url = f"{up.url}/chat/completions"
        assert client.post(url, json=body).status_code == 200

        def refused() -> bool:
            try:
                client.post(url, json=body)
            except httpx.ConnectError:
                return True
            except httpx.TransportError:  # the kept-alive connection, cut at the moment of closing
                return False
            return False

        until(refused)
        until(lambda: not refused())
        assert client.post(url, json=body).status_code == 200


def test_the_script_starts_again_on_request() -> None:
    with Upstream([{"for_s": 2.0, "mode": "503"}]) as up:
        assert ask(up.url).status_code == 503
        until(lambda: ask(up.url).status_code == 200)
        assert httpx.post(up.url.replace("/v1", "/__start")).status_code == 204
        assert ask(up.url).status_code == 503


def test_a_body_that_is_no_question_gets_400() -> None:
    with Upstream() as up:
        assert httpx.post(f"{up.url}/chat/completions", content=b"{").status_code == 400


@pytest.mark.parametrize(
    "text",
    [
        "[{]",
        '[{"mode": "ok"}]',
        '[{"for_s": 1, "mode": "explode"}]',
        "/no/such/script",
        '[{"for_s": -1, "mode": "ok"}]',
    ],
)
def test_a_script_that_cannot_be_played_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ScriptError) as caught:
        Script.read(text)
    assert "\n" not in str(caught.value)


def test_as_a_process_it_prints_its_port_writes_its_log_and_ends_on_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    command = [sys.executable, "-m", "tasks.upstream", "--log", str(log), "--latency-s", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            ask(url, **{"X-Request-Id": "r7"})
            until(lambda: bool(read_log(log)))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    (entry,) = read_log(log)
    assert (entry.request_id, entry.status, entry.mode) == ("r7", 200, "ok")
    assert entry.prompt_sha256 == hashlib.sha256(PROMPT.encode()).hexdigest()


def test_an_occupied_port_is_one_sentence() -> None:
    with Upstream() as up:
        command = [sys.executable, "-m", "tasks.upstream", "--port", str(up.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
