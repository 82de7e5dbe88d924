"""The wrapped error: what it carries, how it reads at night, and that it arrives whole wherever it is sent."""

from __future__ import annotations

import json
import pickle
import traceback
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resilience
from resilience.errors import (
    ADVICE,
    ErrorCategory,
    ErrorContext,
    PoolError,
    Severity,
    Strategy,
    WrappedError,
    matrix_with,
    wrap,
)
from resilience.errors.advice import NEXT
from resilience.errors.travel import DescribedError

SECRET = "hunter2-Tr0ub4dor"
NOW = datetime(2026, 3, 1, 12, 0, 10, tzinfo=timezone.utc)
STARTED_AT = NOW.timestamp() - 10


def limited() -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://api.example/v1/chat")
    response = httpx.Response(429, headers={"Retry-After": "30"}, request=request)
    return httpx.HTTPStatusError("Client error '429 Too Many Requests'", request=request, response=response)


def full() -> WrappedError:
    """An error with all that can be known about it."""
    return wrap(
        limited(),
        operation="charge",
        attempt=2,
        task_id="6f0c",
        task="shop.charge",
        worker="w1@host",
        session="u42",
        circuit="payments",
        started_at=STARTED_AT,
        elapsed_s=1.25,
        metadata={"model": "gpt", "tokens": 512},
    )


# -- what it carries -----------------------------------------------------------------------------------------------


def test_it_carries_the_original_and_everything_that_is_known() -> None:
    original = limited()
    error = wrap(original, attempt=2, task="shop.charge")
    assert isinstance(error, PoolError)
    assert error.original is error.__cause__ is original
    assert (error.category, error.severity, error.strategy, error.attempt) == (
        ErrorCategory.RATE_LIMIT, Severity.MINOR, Strategy.BACKOFF_RETRY, 2,
    )  # fmt: skip
    assert full().context == ErrorContext(
        category=ErrorCategory.RATE_LIMIT,
        severity=Severity.MINOR,
        strategy=Strategy.BACKOFF_RETRY,
        error_type="httpx.HTTPStatusError",
        message="HTTPStatusError: Client error '429 Too Many Requests'",
        attempt=2,
        operation="charge",
        task_id="6f0c",
        task="shop.charge",
        worker="w1@host",
        session="u42",
        circuit="payments",
        started_at=STARTED_AT,
        elapsed_s=1.25,
        retry_after_s=30.0,
        metadata={"model": "gpt", "tokens": 512},
    )


def test_nothing_needs_to_be_known_but_the_error() -> None:
    context = wrap(TimeoutError()).context
    assert (context.message, context.attempt, context.task, context.metadata) == ("TimeoutError", 1, "", {})
    assert context.started_at is context.elapsed_s is context.retry_after_s is None


def test_raising_it_needs_no_from() -> None:
    with pytest.raises(WrappedError) as caught:
        _fail()
    shown = "".join(traceback.format_exception(caught.value))
    assert "direct cause" in shown
    assert "During handling" not in shown
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def _fail() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        raise wrap(error, operation="divide")  # noqa: B904  wrap keeps the cause


def test_severity_is_that_of_the_attempt_and_of_the_fleet() -> None:
    assert wrap(limited(), attempt=4).severity is Severity.MAJOR
    assert wrap(limited(), all_workers_affected=True).severity is Severity.CRITICAL


def test_the_matrix_in_force_decides() -> None:
    matrix = matrix_with({"rate_limit": {"severity": "critical", "strategy": "circuit_break"}})
    error = wrap(limited(), matrix=matrix)
    assert (error.severity, error.strategy) == (Severity.CRITICAL, Strategy.CIRCUIT_BREAK)


def test_the_time_it_took_is_reckoned_from_its_start() -> None:
    assert wrap(TimeoutError(), started_at=STARTED_AT, now=NOW).context.elapsed_s == 10.0
    assert wrap(TimeoutError(), started_at=STARTED_AT, now=NOW, elapsed_s=3).context.elapsed_s == 3.0
    assert wrap(TimeoutError(), started_at=STARTED_AT).context.elapsed_s is None


def test_names_that_are_not_listed_join_the_metadata() -> None:
    error = wrap(TimeoutError(), operation="chat", model="gpt", metadata={"tries": 2})
    assert error.context.metadata == {"tries": 2, "model": "gpt"}


def test_the_context_cannot_be_changed() -> None:
    context = full().context
    with pytest.raises(FrozenInstanceError):
        context.attempt = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        context.metadata["model"] = "x"  # type: ignore[index]
    assert hash(context) == hash(full().context)


# -- wrapping again ------------------------------------------------------------------------------------------------


def test_wrapping_again_adds_context_and_never_nests() -> None:
    inner = wrap(limited(), operation="post", attempt=1, model="gpt")
    outer = wrap(wrap(inner, operation="charge", task="shop.charge"), worker="w1", attempt=2, tries=3)
    assert outer.original is outer.__cause__ is inner.original
    context = outer.context
    assert (context.operation, context.task, context.worker, context.attempt) == ("charge", "shop.charge", "w1", 2)
    assert context.metadata == {"model": "gpt", "tries": 3}
    assert context.message == inner.context.message
    assert context.retry_after_s == 30.0
    assert inner.context.worker == "", "the first one is as it was"


def test_raising_it_from_the_wrapped_one_does_not_bury_the_original() -> None:
    inner = wrap(limited())
    with pytest.raises(WrappedError) as caught:
        raise wrap(inner, operation="charge") from inner
    assert caught.value.original is inner.original
    assert wrap(caught.value).original is inner.original


def test_severity_never_falls_by_wrapping_again() -> None:
    error = wrap(wrap(limited(), all_workers_affected=True), operation="charge")
    assert error.severity is Severity.CRITICAL
    assert wrap(wrap(limited(), attempt=2), attempt=5).severity is Severity.MAJOR


# -- slips of whoever calls it -------------------------------------------------------------------------------------


class _Broken:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Any:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    "slip", [7, None, "x", b"x", ["a"], {"a": 1}, float("nan"), -1, True, 10**400, 10**5_000, _Broken()], ids=type
)
def test_a_slip_in_an_argument_never_hides_the_error(slip: Any) -> None:
    names = ("operation", "attempt", "task_id", "task", "worker", "session", "circuit", "started_at", "elapsed_s",
             "metadata", "unheard_of")  # fmt: skip
    for name in names:
        error = wrap(limited(), **{name: slip})
        assert error.category is ErrorCategory.RATE_LIMIT
        json.dumps(error.to_json(), allow_nan=False)
        assert error.format_for_logging()
        assert pickle.loads(pickle.dumps(error)).context == error.context


# -- how it reads --------------------------------------------------------------------------------------------------


def test_one_line_says_what_and_when() -> None:
    said = "rate_limit on attempt 2: HTTPStatusError: Client error '429 Too Many Requests'"
    assert str(full()) == f"charge: {said}"
    assert repr(full()) == f'WrappedError("charge: {said}")'
    assert str(wrap(TimeoutError())) == "timeout_error on attempt 1: TimeoutError"


def test_the_log_says_what_where_why_and_how_to_fix_it() -> None:
    advice = ADVICE[ErrorCategory.RATE_LIMIT]
    assert full().format_for_logging().splitlines() == [
        "charge failed: HTTPStatusError: Client error '429 Too Many Requests'",
        "  what:  rate_limit, minor, attempt 2, after 1.25 s, begun 2026-03-01 12:00:00 UTC",
        "  where: task shop.charge[6f0c], worker w1@host, circuit payments, session u42",
        f"  why:   {advice.why}",
        f"  fix:   {advice.fix}",
        "  next:  retried, each time after a longer wait, the server asks to wait 30 s",
        '  data:  {"model": "gpt", "tokens": 512}',
    ]


def test_what_is_not_known_takes_no_line() -> None:
    lines = wrap(TimeoutError()).format_for_logging().splitlines()
    assert lines[0] == "a call failed: TimeoutError"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["what", "why", "fix", "next"]


@pytest.mark.parametrize("category", ErrorCategory)
def test_every_category_has_advice_that_is_whole_sentences(category: ErrorCategory) -> None:
    advice = ADVICE[category]
    for text in (advice.why, advice.fix):
        assert text[0].isupper()
        assert text.endswith(".")
        assert 20 < len(text) < 300
    assert set(NEXT) == set(Strategy)


def test_a_message_of_many_lines_stays_one_line_of_the_log() -> None:
    lines = wrap(RuntimeError("one\ntwo\nfix: nothing")).format_for_logging().splitlines()
    assert lines[0] == "a call failed: RuntimeError: one two fix: nothing"
    assert len(lines) == 5


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_it_becomes_strict_json_and_comes_back() -> None:
    error = full()
    text = json.dumps(error.to_json(), allow_nan=False)
    for back in (WrappedError.from_json(text), WrappedError.from_json(json.loads(text))):
        assert back.context == error.context
        assert str(back) == str(error)
    assert json.loads(text)["category"] == "rate_limit"


def test_after_json_the_original_is_a_description_that_says_so() -> None:
    back = WrappedError.from_json(full().to_json())
    assert isinstance(back.__cause__, DescribedError)
    assert str(back.original) == (
        "HTTPStatusError: Client error '429 Too Many Requests' "
        "(a description: the httpx.HTTPStatusError itself stayed behind)"
    )


def test_what_a_newer_version_added_is_left_out() -> None:
    assert WrappedError.from_json({**full().to_json(), "mood": "bad"}).context == full().context


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        "7",
        {"category": "no_such", "severity": "major", "strategy": "abandon"},
        {"category": "rate_limit", "severity": [], "strategy": "abandon"},
        {**full().to_json(), "attempt": "two"},
        {**full().to_json(), "attempt": True},
        {**full().to_json(), "started_at": "today"},
        {**full().to_json(), "task": 7},
        {**full().to_json(), "metadata": [1]},
        {**full().to_json(), "message": None},
    ],
)
def test_what_is_no_context_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(ValueError, match="an error's context") as refusal:
        WrappedError.from_json(wrong)
    assert "\n" not in str(refusal.value)


def test_a_secret_in_foreign_json_is_redacted_on_the_way_in() -> None:
    back = WrappedError.from_json(
        {**full().to_json(), "message": f"redis://:{SECRET}@h", "metadata": {"token": SECRET}}
    )
    assert SECRET not in f"{back!r} {back.format_for_logging()} {back.to_json()}"


def test_celerys_json_backend_gives_the_whole_error_back() -> None:
    """It keeps `args` as JSON and calls the class with them."""
    error = full()
    args = json.loads(json.dumps(error.args))
    back = WrappedError(*args)
    assert back.context == error.context


_TEXT = st.text(max_size=20)
_PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXT, inner, max_size=4)),
    max_leaves=10,
)


@given(
    st.sampled_from(ErrorCategory), st.integers(1, 10**6), _TEXT, _TEXT, st.floats(), st.floats(),
    st.dictionaries(_TEXT, _PLAIN, max_size=4),
)  # fmt: skip
def test_whatever_it_carries_json_and_pickle_carry_it_too(
    category: ErrorCategory, attempt: int, words: str, name: str, begun: float, took: float, data: dict[str, Any]
) -> None:
    context = replace(full().context, category=category, message=words)
    error = wrap(WrappedError(context), attempt=attempt, worker=name, started_at=begun, elapsed_s=took, metadata=data)
    assert WrappedError.from_json(json.dumps(error.to_json(), allow_nan=False)).context == error.context
    assert pickle.loads(pickle.dumps(error)).context == error.context


def test_the_public_name_is_this_function() -> None:
    assert resilience.wrap is wrap
