"""Secrets out of text: what is planted is gone, what is ordinary stays, and describing an error is always safe."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signals.redact import HIDDEN, describe, redact

SECRET = "hunter2-Tr0ub4dor"

_PLACES = [
    f"redis://:{SECRET}@cache:6379/0",
    f"cannot reach amqp://shop:{SECRET}@broker//",
    f"postgresql+psycopg://u:{SECRET}@db/x and more",
    f"sentinel://:{SECRET}@h1:26379;sentinel://:{SECRET}@h2:26379",
    f"redis://u:{SECRET}@{SECRET}@host/0",
    f"Authorization: Bearer {SECRET}",
    f"Authorization: {SECRET}",
    f"{{'authorization': 'Basic {SECRET}'}}",
    f"{{'authorization': b'Token {SECRET}'}}",
    f"sent bearer {SECRET} upstream",
    f"api_key={SECRET}",
    f"OPENAI_API_KEY={SECRET}",
    f"export AWS_SECRET_ACCESS_KEY={SECRET} here",
    f"X-Api-Key: {SECRET}",
    f"https://api.example/v1?api_key={SECRET}&page=2",
    f"client_secret={SECRET}&grant=x",
    f"refresh_token: {SECRET}",
    f"password = {SECRET}",
    f"DB_PASSWD={SECRET}",
    f"SECRET_KEY = '{SECRET}'",
    json.dumps({"password": SECRET, "user": "ann"}),
    json.dumps({"password": f"with spaces, and; {SECRET}"}),
    json.dumps({"password": f'with "quotes" {SECRET}'}),
    json.dumps(json.dumps({"api_key": SECRET})),
    repr({"token": SECRET.encode()}),
    f"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET} cut off",
]


@pytest.mark.parametrize("text", _PLACES)
def test_a_planted_secret_is_gone(text: str) -> None:
    shown = redact(text)
    assert SECRET not in shown
    assert "hunter2" not in shown
    assert "Tr0ub4dor" not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF123456", "sk-ant-api03-abcdefgh", "ghp_abcdefghijklmnop", "xoxb-123456789012",
        "AKIAIOSFODNN7EXAMPLE", "AIza" + "x" * 35, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_1",
    ],
)  # fmt: skip
def test_a_key_is_recognised_by_its_shape(key: str) -> None:
    assert redact(f"the server said: invalid {key}.") == f"the server said: invalid {HIDDEN}."


@pytest.mark.parametrize("text", _PLACES)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_what_surrounds_a_secret_stays_readable() -> None:
    assert redact(f"no answer from redis://u:{SECRET}@cache:6379/0 in 2 s") == (
        f"no answer from redis://u:{HIDDEN}@cache:6379/0 in 2 s"
    )
    assert redact(f'{{"password": "{SECRET}", "user": "ann"}}') == f'{{"password": "{HIDDEN}", "user": "ann"}}'
    assert redact(f"?api_key={SECRET}&page=2") == f"?api_key={HIDDEN}&page=2"


@pytest.mark.parametrize(
    "text",
    [
        "connection to redis://cache:6379/0 refused",
        "http://127.0.0.1:8080/v1/chat?email=ann@example.org",
        "a basic understanding of Basic authentication",
        "task tasks.chat[6f0c-11] attempt 2: timeout_error, again in 1.07 s",
        "max_tokens=512, total_tokens: 9, the tokenizer is fine",
        "the secret of the password is patience",
        "circuit openai@fallback: closed -> open for 60.0 s (5 failures in a row)",
        "",
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redact(text) == text


_MARKERS = ("://", "key", "pass", "secret", "token", "bearer", "basic", "authorization", "sk", "pk", "rk", "xox", "gh",
            "akia", "aiza", "eyj", "-----")  # fmt: skip


@given(st.text(max_size=200).filter(lambda text: not any(marker in text.lower() for marker in _MARKERS)))
def test_text_without_markers_is_unchanged(text: str) -> None:
    assert redact(text) == text


@given(
    st.sampled_from(["redis://:{}@h/0", "password={}", '"api_key": "{}"', "Bearer {}", "token: '{}'"]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789", min_size=12, max_size=40),
    st.text("abc xyz.,\n", max_size=20),
    st.text("abc xyz.,\n", max_size=20),
)
def test_no_secret_of_letters_and_digits_survives(form: str, secret: str, before: str, after: str) -> None:
    assert secret not in redact(f"{before} {form.format(secret)} {after}")


@pytest.mark.parametrize(
    "piece", ["a", "a-", "a.", "token ", "token", "://", "a://b:", "password=", "sk-", '\\"', "bearer "]
)
def test_long_hostile_text_takes_no_long_time(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 1.0


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_is_described_in_one_short_redacted_line() -> None:
    error = ConnectionError(f"no answer\nfrom redis://:{SECRET}@cache\n" + "x" * 1000)
    line = describe(error)
    assert line.startswith(f"ConnectionError: no answer from redis://:{HIDDEN}@cache xxx")
    assert (len(line), "\n" in line) == (300, False)


def test_an_error_without_words_or_with_broken_ones_is_named() -> None:
    assert describe(ValueError()) == "ValueError"
    assert describe(_MuteError()) == "_MuteError: (no message: its __str__ raises)"


@given(st.text(), st.integers(1, 50))
def test_a_description_keeps_its_limit(text: str, limit: int) -> None:
    assert len(describe(RuntimeError(text), limit)) <= limit
