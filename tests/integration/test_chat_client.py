"""The chat client against a real server that fails in every way an upstream can."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx
import pytest

from resilience.testing import until
from tasks.adapters.offline import Offline
from tasks.chat_client import ChatApi, ChatConfigError, MalformedReply, ask, close_clients
from tasks.upstream import Upstream, expected_answer


@pytest.fixture(autouse=True)
def _no_client_left() -> Iterator[None]:
    yield
    close_clients()


def test_an_answer_says_who_gave_it() -> None:
    with Upstream(key="k") as up:
        answer = ask(ChatApi(up.url, "k"), "One question. Or two?", "r1")
        logged = until(lambda: up.requests, what="the log, written after the answer was sent")
        assert logged[0].request_id == "r1"
    assert (answer.text, answer.source, answer.degraded) == (
        expected_answer("One question. Or two?"),
        "primary",
        False,
    )
    assert answer.model == "extractive-1"


def test_a_status_error_keeps_its_response() -> None:
    script = [{"for_s": 60, "mode": "429", "retry_after_s": 3}]
    with Upstream(script) as up, pytest.raises(httpx.HTTPStatusError) as caught:
        ask(ChatApi(up.url), "q", "r1")
    assert caught.value.response.headers["Retry-After"] == "3"


def test_a_wrong_key_is_an_http_401() -> None:
    with Upstream(key="right") as up, pytest.raises(httpx.HTTPStatusError, match="401"):
        ask(ChatApi(up.url, "wrong"), "q", "r1")


@pytest.mark.parametrize("mode", ["hang", "trickle"])
def test_one_attempt_lasts_no_longer_than_its_timeout_in_total(mode: str) -> None:
    with Upstream([{"for_s": 60, "mode": mode}]) as up:
        began = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            ask(ChatApi(up.url, timeout_s=0.5), "q", "r1")
        assert 0.4 < time.monotonic() - began < 0.8


def test_a_refused_connection_is_a_connect_error() -> None:
    with Upstream() as up:
        url = up.url
    with pytest.raises(httpx.ConnectError):
        ask(ChatApi(url), "q", "r1")


def test_a_reply_that_is_no_completion_says_what_was_expected() -> None:
    expected = pytest.raises(MalformedReply, match=r"(?i)malformed.*expected a chat completion")
    with Upstream([{"for_s": 60, "mode": "malformed"}]) as up, expected:
        ask(ChatApi(up.url), "q", "r1")


def test_a_process_keeps_its_connection_and_a_forked_child_makes_its_own() -> None:
    with Upstream() as up:
        api = ChatApi(up.url)
        ask(api, "q", "parent-1")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if ask(api, "q", "child").source == "primary" else 1
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        ask(api, "q", "parent-2")
        until(lambda: len(up.requests) >= 3, what="the log, written after the answers were sent")
        assert [r.request_id for r in up.requests] == ["parent-1", "child", "parent-2"]


def test_the_configuration_comes_from_the_environment_and_never_shows_its_key() -> None:
    environ = {
        "CELERIAC_API_URL": "https://api.example.com/v1/",
        "CELERIAC_API_KEY": "sk-secret\n",
        "CELERIAC_API_TIMEOUT_S": "7",
        "CELERIAC_FALLBACK_API_URL": "http://second.example.com",
        "CELERIAC_FALLBACK_MODEL": "small",
    }
    primary = ChatApi.from_environment("CELERIAC_", environ)
    secondary = ChatApi.from_environment("CELERIAC_FALLBACK_", environ)
    assert (primary.base_url, primary.key, primary.timeout_s) == (
        "https://api.example.com/v1",
        "sk-secret",
        7.0,
    )
    assert (secondary.model, secondary.source, secondary.timeout_s) == ("small", "secondary", 7.0)
    assert "sk-secret" not in repr(primary)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"CELERIAC_API_URL": "ftp://host/v1"},
        {"CELERIAC_API_URL": "host/v1"},
        {"CELERIAC_API_URL": "http://"},
        {"CELERIAC_API_URL": "http://user:pw@host/v1"},
        {"CELERIAC_API_URL": "http://host:port/v1"},
        {"CELERIAC_API_URL": "http://host", "CELERIAC_API_TIMEOUT_S": "soon"},
        {"CELERIAC_API_URL": "http://host", "CELERIAC_API_TIMEOUT_S": "0"},
        {"CELERIAC_API_URL": "http://host", "CELERIAC_API_KEY": "se cret\u2028"},
    ],
)
def test_a_wrong_configuration_is_one_sentence_without_secrets(environ: dict[str, str]) -> None:
    with pytest.raises(ChatConfigError) as caught:
        ChatApi.from_environment("CELERIAC_", environ)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "pw" not in sentence
    assert "cret" not in sentence


def test_the_offline_answer_is_honest() -> None:
    answer = Offline().answer("three words here", "r1")
    assert (answer.source, answer.degraded) == ("offline", True)
    assert "no model has read this question" in answer.text
