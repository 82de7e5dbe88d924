"""A user's changes to the matrix: what they change, and the one sentence that refuses a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.errors import MATRIX, ErrorCategory, MatrixError, Row, Severity, Strategy, matrix_with

C = ErrorCategory


def test_no_overrides_leave_the_matrix() -> None:
    assert matrix_with({}) == MATRIX


def test_only_the_given_field_of_the_given_row_changes() -> None:
    matrix = matrix_with({"server_error": {"max_retries": 5}})
    assert matrix[C.SERVER] == replace(MATRIX[C.SERVER], max_retries=5)
    assert {**matrix, C.SERVER: MATRIX[C.SERVER]} == MATRIX
    assert MATRIX[C.SERVER].max_retries == 3, "the matrix itself is as it was"


def test_every_field_can_be_given_by_name_or_by_member() -> None:
    by_name = {"severity": "minor", "strategy": "immediate_retry", "max_retries": 1, "growth": "linear",
               "transient": True, "counts": False}  # fmt: skip
    assert {field.name for field in fields(Row)} == set(by_name)
    row = matrix_with({"timeout_error": by_name})[C.TIMEOUT]
    assert (row.severity, row.strategy, row.counts) == (Severity.MINOR, Strategy.IMMEDIATE_RETRY, False)
    assert matrix_with({C.TIMEOUT: {"severity": Severity.MINOR}})[C.TIMEOUT].severity is Severity.MINOR
    assert matrix_with({C.TIMEOUT: row})[C.TIMEOUT] == row


def test_an_abandoned_error_needs_no_word_about_retries() -> None:
    assert matrix_with({"timeout_error": {"strategy": "abandon"}})[C.TIMEOUT].max_retries == 0


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["server_error"], (), "must be a mapping from category to fields, ['server_error'] is not"),
        ({"server_eror": {}}, (), "unknown category 'server_eror': did you mean server_error?"),
        ({7: {}}, (), "unknown category 7: known are initialization_error, "),
        ({"server_error": 5}, ("server_error",), "must be a mapping of fields (severity, strategy, max_retries, "),
        (
            {"server_error": {"max_retry": 5}},
            ("server_error", "max_retry"),
            "unknown field: did you mean max_retries?",
        ),
        (
            {"server_error": {"strategy": "backof_retry"}},
            ("server_error", "strategy"),
            "unknown strategy 'backof_retry': did you mean backoff_retry?",
        ),
        ({"server_error": {"severity": []}}, ("server_error", "severity"), "unknown severity []: known are critical, "),
        ({"server_error": {"growth": "cubic"}}, ("server_error", "growth"), "unknown growth 'cubic': known are "),
        (
            {"server_error": {"max_retries": -1}},
            ("server_error", "max_retries"),
            "must be a whole number from 0 to 1000, -1 is not",
        ),
        ({"server_error": {"max_retries": True}}, ("server_error", "max_retries"), "must be a whole number"),
        ({"server_error": {"max_retries": "5"}}, ("server_error", "max_retries"), "must be a whole number"),
        ({"server_error": {"counts": "no"}}, ("server_error", "counts"), "must be true or false, 'no' is neither"),
        (
            {"server_error": {"strategy": "abandon", "max_retries": 2}},
            ("server_error",),
            "strategy abandon never retries, so max_retries 2 cannot be: ",
        ),
        ({"auth_error": {"max_retries": 2}}, ("auth_error",), "strategy abandon never retries, so max_retries 2 "),
        (
            {"auth_error": {"strategy": "backoff_retry", "max_retries": 2}},
            ("auth_error",),
            "strategy backoff_retry is for errors that may pass, but transient is false: ",
        ),
        (
            {"python_error": {"counts": True}},
            ("python_error",),
            "a mistake in code says nothing about a dependency, so ",
        ),
        ({"python_error": {"max_retries": 3}}, ("python_error",), "max_retries 3 is for errors that may pass, but "),
    ],
)
def test_a_wrong_override_is_refused_with_what_would_be_right(
    overrides: Any, path: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MatrixError) as refusal:
        matrix_with(overrides)
    assert refusal.value.path == path
    assert refusal.value.message.startswith(message)
    assert str(refusal.value) == ".".join(("matrix", *path)) + f": {refusal.value.message}"
    assert "\n" not in str(refusal.value)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
_NEAR = st.dictionaries(
    st.sampled_from([category.value for category in C]),
    st.dictionaries(st.sampled_from([field.name for field in fields(Row)]) | st.text(), _JSON),
)


@given(_JSON | _NEAR)
def test_whatever_is_given_it_is_taken_or_refused_in_one_short_sentence(overrides: Any) -> None:
    answer = _answer(overrides)
    if isinstance(answer, str):
        assert len(answer) < 400
        assert "\n" not in answer
    else:
        assert set(answer) == set(C)
        assert all(0 <= row.max_retries <= 1_000 for row in answer.values())


def _answer(overrides: Any) -> Mapping[ErrorCategory, Row] | str:
    try:
        return matrix_with(overrides)
    except MatrixError as refusal:
        return str(refusal)
