"""The wrapped error: what it carries, how it reads at night, and that it arrives whole wherever it is sent."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import traceback
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timezone
from pathlib import Path
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
from signals.redact import HIDDEN

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


# -- pickle --------------------------------------------------------------------------------------------------------


class PlainError(Exception):
    """Survives a pickle."""


class NeedsTwoError(Exception):
    """Can be written as a pickle, not read: its arguments are not those of its constructor."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")


class SecretiveError(Exception):
    """Decides itself what its pickle holds."""

    def __reduce__(self) -> Any:
        return PlainError, (SECRET,)


def _with(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "original",
    [
        PlainError("no", 7),
        ConnectionRefusedError(111, "refused"),
        KeyError("id"),
        _with(PlainError("no"), status_code=3),
    ],
)
def test_an_original_of_plain_data_travels(original: BaseException) -> None:
    back = pickle.loads(pickle.dumps(wrap(original, operation="charge")))
    assert type(back.original) is type(original)
    assert back.original.args == original.args
    assert vars(back.original) == vars(original)
    assert back.__cause__ is back.original


@pytest.mark.parametrize(
    "original",
    [
        limited(),
        NeedsTwoError(7, "no"),
        SecretiveError("no"),
        _with(PlainError("no"), lock=object()),
        _with(PlainError("no"), handler=lambda: None),
        type("LocalError", (Exception,), {})("no"),
        PlainError("x" * 100_000),
        PlainError(PlainError("no")),
        PlainError(f"redis://:{SECRET}@cache"),
        PlainError({"password": SECRET}),
        PlainError(f"password={SECRET}".encode()),
        _with(PlainError("no"), headers={"x-api-key": SECRET}),
    ],
)
def test_any_other_original_is_replaced_by_its_description_and_nothing_else_is_lost(original: BaseException) -> None:
    error = wrap(original, operation="charge", attempt=2, model="gpt")
    data = pickle.dumps(error)
    back = pickle.loads(data)
    assert back.context == error.context
    assert isinstance(back.original, DescribedError)
    assert "itself stayed behind" in str(back.original)
    assert SECRET.encode() not in data


def test_a_class_that_the_reader_does_not_know_is_described() -> None:
    code = (
        "import pickle, sys\n"
        "from resilience.errors import wrap\n"
        "class OnlyHere(Exception): pass\n"
        "sys.stdout.buffer.write(pickle.dumps(wrap(OnlyHere('no'), operation='charge')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    back = pickle.loads(done.stdout)
    assert str(back) == "charge: python_error on attempt 1: OnlyHere: no"
    assert isinstance(back.original, DescribedError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_will_do(protocol: int) -> None:
    assert pickle.loads(pickle.dumps(full(), protocol)).context == full().context


def test_a_copy_is_the_same_error() -> None:
    for back in (copy.copy(full()), copy.deepcopy(full())):
        assert back.context == full().context


def test_it_survives_a_second_journey() -> None:
    back = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(full()))))
    assert back.context == full().context
    assert str(back.original).count("stayed behind") == 1


class OwnWrappedError(WrappedError):
    """A user's subclass with arguments of its own."""

    def __init__(self, order: int) -> None:
        super().__init__(full().context)
        self.order = order


def test_a_subclass_with_other_arguments_survives() -> None:
    back = pickle.loads(pickle.dumps(OwnWrappedError(7)))
    assert type(back) is OwnWrappedError
    assert back.context == full().context


# -- billiard, as a prefork child sends it ------------------------------------------------------------------------

_POOL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import billiard
import failing

if __name__ == "__main__":
    pool = billiard.Pool(1)
    try:
        pool.apply(failing.work, ())
    except Exception as error:
        seen = [type(error).__name__, error.to_json(), str(error.original), type(error.__cause__).__name__]
        json.dump(seen, sys.stdout)
    finally:
        pool.terminate()
        pool.join()
"""

_FAILING = """
import os, threading
from resilience.errors import wrap

class Unpicklable(Exception):
    def __init__(self):
        super().__init__("cannot reach redis://:hunter2-Tr0ub4dor@cache")
        self.lock = threading.Lock()

def work():
    try:
        raise Unpicklable()
    except Unpicklable as error:
        raise wrap(error, operation="charge", attempt=3, child=os.getpid())
"""


def test_it_comes_home_whole_from_a_child_of_billiard(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(_FAILING)
    (tmp_path / "main.py").write_text(_POOL)
    argv = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    kind, values, original, cause = json.loads(done.stdout)
    context = ErrorContext.from_json(values)
    assert (kind, context.operation, context.attempt) == ("WrappedError", "charge", 3)
    assert context.metadata["child"] != os.getpid()
    assert original == (
        f"Unpicklable: cannot reach redis://:{HIDDEN}@cache "
        "(a description: the failing.Unpicklable itself stayed behind)"
    )
    assert cause == "RemoteTraceback", "billiard puts the text of the traceback there; the original is not lost by it"


def test_the_public_name_is_this_function() -> None:
    assert resilience.wrap is wrap
