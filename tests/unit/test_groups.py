"""A group of exceptions may be tried again only if everything in it may; and no group, however made, hurts."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from resilience.errors import ErrorCategory, PermanentError, TransientError, classify, wrap

C = ErrorCategory


class _Backport(Exception):  # noqa: N818  named as the original below
    """As the `exceptiongroup` package makes it for Python 3.10."""

    def __init__(self, message: str, exceptions: Any) -> None:
        super().__init__(message, exceptions)
        self.exceptions = tuple(exceptions)

    def __str__(self) -> str:
        return str(self.args[0])


_Backport.__name__, _Backport.__module__ = "BaseExceptionGroup", "exceptiongroup"
_KINDS: list[Any] = [_Backport]
if hasattr(builtins, "ExceptionGroup"):  # Python 3.11
    _KINDS.append(builtins.ExceptionGroup)


@pytest.fixture(params=_KINDS, ids=lambda kind: kind.__module__)
def group(request: pytest.FixtureRequest) -> Any:
    return request.param


def category(error: BaseException) -> ErrorCategory:
    return classify(error).category


def test_a_group_is_what_its_members_are(group: Any) -> None:
    assert category(group("two", [ConnectionError(), ConnectionError()])) is C.CONNECTION
    assert category(group("two", [TimeoutError(), ConnectionError()])) is C.TIMEOUT


def test_one_permanent_member_makes_the_group_permanent(group: Any) -> None:
    assert category(group("three", [ConnectionError(), PermanentError("closed"), KeyError("x")])) is C.INVALID_REQUEST
    assert category(group("timed out", [ConnectionError(), ValueError("no")])) is C.PYTHON


def test_groups_inside_a_group_are_opened(group: Any) -> None:
    assert category(group("a", [group("b", [TimeoutError()]), ConnectionError()])) is C.TIMEOUT
    assert category(group("a", [ConnectionError(), group("b", [TimeoutError(), KeyError()])])) is C.PYTHON


def test_members_and_the_group_are_judged_by_their_causes_too(group: Any) -> None:
    member, outer = ValueError("no"), RuntimeError("no")
    member.__cause__ = ConnectionResetError()
    outer.__cause__ = group("one", [member])
    assert category(outer) is C.CONNECTION


def test_the_tasks_own_word_counts_in_a_group(group: Any) -> None:
    assert classify(group("one", [TransientError("busy")])).row.transient


def test_the_longest_hint_of_its_members_is_the_groups(group: Any) -> None:
    hinted = []
    for seconds in ("3", "7"):
        error = RuntimeError("rate limit")
        error.headers = {"Retry-After": seconds}  # type: ignore[attr-defined]
        hinted.append(error)
    found = classify(group("two", hinted))
    assert (found.category, found.retry_after_s) == (C.RATE_LIMIT, 7.0)


def test_a_group_of_very_many_is_judged_by_the_first_ones(group: Any) -> None:
    assert category(group("many", [ConnectionError() for _ in range(10_000)])) is C.CONNECTION
    assert category(group("many", [group("few", [ConnectionError()] * 60) for _ in range(60)])) is C.CONNECTION


def test_a_group_as_deep_as_python_allows_is_classified(group: Any) -> None:
    error = group("innermost", [ConnectionError()])
    for _ in range(200):
        error = group("around it", [error])
    assert category(error) is C.PYTHON
    assert "python_error" in wrap(error).format_for_logging()


def test_rings_of_groups_and_causes_come_to_an_end(group: Any) -> None:
    member = ValueError("no")
    error = group("ring", [member, member])
    member.__cause__ = error
    assert category(error) is C.PYTHON
    one = _Backport("one", [])
    one.exceptions = (one, ConnectionError())
    assert category(one) is C.CONNECTION


@pytest.mark.parametrize("exceptions", [None, 7, [ConnectionError()], (1, "two"), ()])
def test_a_group_without_members_is_judged_by_its_own_words(exceptions: Any) -> None:
    error = _Backport("timed out", [])
    error.exceptions = exceptions
    assert category(error) is C.TIMEOUT
