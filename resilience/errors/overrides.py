"""A user's changes to the matrix, checked before anything runs by them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any

from resilience.errors.taxonomy import MATRIX, ErrorCategory, Growth, Row, Severity, Strategy
from signals.redact import one_line

RETRIES_LIMIT = 1_000

_CHOICES: dict[str, type[Enum]] = {"severity": Severity, "strategy": Strategy, "growth": Growth}
_FIELDS = tuple(field.name for field in fields(Row))
_PERMANENT = frozenset({Strategy.FAILOVER, Strategy.ABANDON})
"""Strategies that make sense for an error that no retry mends."""


class MatrixError(ValueError):
    """An override is wrong. `path` leads to it (category, field); the message is the rest of one sentence."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(path, message)
        self.path = path
        self.message = message

    def __str__(self) -> str:
        return ".".join(("matrix", *self.path)) + f": {self.message}"


def matrix_with(overrides: Mapping[Any, Any]) -> Mapping[ErrorCategory, Row]:
    """The matrix with `overrides` on top: `{"server_error": {"max_retries": 5}}`.

    Strategy `abandon` implies no retries. Raises MatrixError for what is unknown, of the wrong kind or contradictory.
    """
    if not isinstance(overrides, Mapping):
        raise MatrixError((), f"must be a mapping from category to fields, {_shown(overrides)} is not")
    matrix = dict(MATRIX)
    for name, given in overrides.items():
        category = _choice(ErrorCategory, name, (), "category")
        matrix[category] = _row(category, given)
    return matrix


def _row(category: ErrorCategory, given: Any) -> Row:
    path = (category.value,)
    if isinstance(given, Row):
        given = {name: getattr(given, name) for name in _FIELDS}
    if not isinstance(given, Mapping):
        raise MatrixError(path, f"must be a mapping of fields ({', '.join(_FIELDS)}), {_shown(given)} is not")
    changes = {str(name): _value(path, name, value) for name, value in given.items()}
    if changes.get("strategy") is Strategy.ABANDON:
        changes.setdefault("max_retries", 0)
    row = replace(MATRIX[category], **changes)
    contradiction = _contradiction(category, row)
    if contradiction:
        raise MatrixError(path, contradiction)
    return row


def _contradiction(category: ErrorCategory, row: Row) -> str:
    if category is ErrorCategory.PYTHON and row.counts:
        return (
            "a mistake in code says nothing about a dependency, so counts cannot be true: "
            "where an exception does say something, give it another category with a rule"
        )
    if row.strategy is Strategy.ABANDON and row.max_retries:
        return (
            f"strategy abandon never retries, so max_retries {row.max_retries} cannot be: "
            "set it to 0, or set a strategy that retries, as backoff_retry does"
        )
    if row.transient:
        return ""
    if row.strategy not in _PERMANENT:
        return (
            f"strategy {row.strategy.value} is for errors that may pass, but transient is false: "
            "set transient to true, or the strategy to failover or abandon"
        )
    if row.max_retries > 1:
        return (
            f"max_retries {row.max_retries} is for errors that may pass, but transient is false: "
            "set transient to true, or max_retries to 1 for one failover"
        )
    return ""


def _value(path: tuple[str, ...], name: Any, value: Any) -> Any:
    if name not in _FIELDS:
        raise MatrixError((*path, one_line(str(name), 60)), f"unknown field{_hint(str(name), _FIELDS)}")
    path = (*path, name)
    if name in _CHOICES:
        return _choice(_CHOICES[name], value, path, name)
    if name == "max_retries":
        if type(value) is not int or not 0 <= value <= RETRIES_LIMIT:
            raise MatrixError(path, f"must be a whole number from 0 to {RETRIES_LIMIT}, {_shown(value)} is not")
    elif not isinstance(value, bool):
        raise MatrixError(path, f"must be true or false, {_shown(value)} is neither")
    return value


def _choice(kind: Any, value: Any, path: tuple[str, ...], what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        known = [member.value for member in kind]
        raise MatrixError(path, f"unknown {what} {_shown(value)}{_hint(str(value), known)}") from None


def _hint(name: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, n=1)
    return f": did you mean {near[0]}?" if near else f": known are {', '.join(known)}"


def _shown(value: Any) -> str:
    return one_line(repr(value), 60)
