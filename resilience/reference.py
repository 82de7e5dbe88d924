"""The settings page of the documentation, written from the settings themselves: `python -m resilience.reference`."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from resilience.breaker.policy import BreakerPolicy
from resilience.errors.taxonomy import MATRIX, ErrorCategory, Row
from resilience.settings import PREFIX, Settings

_INTRO = """# Settings

Written by `python -m resilience.reference`; change the code, not this page.

Settings live in `app.conf` under these names (with Django's namespace too), or in the environment in capitals
(`RESILIENCE_NAMESPACE`; mappings and lists as JSON). The app beats the environment, which beats the default. A name
that ends in `_s` is in seconds. A wrong value or an unknown name stops the worker at start. A variable `RESILIENCE_*`
that is nowhere near one of these may be somebody else's: it is left alone, and that is said.
"""

_POLICY = """
## A circuit's policy

The value of `resilience_breaker` (for all circuits) and of each entry of `resilience_circuits` (by name):
`resilience_circuits = {"payments": {"open_s": 30}}`. What a circuit leaves out is as in `resilience_breaker`; a
fallback level (`payments@fallback`) takes what it leaves out from its circuit first.

| field | default | what it is |
|---|---|---|
"""

_MATRIX = """
## The error matrix

What is done about an error of each category. `resilience_matrix` changes fields of it:
`resilience_matrix = {"server_error": {"max_retries": 5}}`. `transient`: it may pass by itself; `counts`: a circuit
records it.

| category | severity | strategy | max_retries | growth | transient | counts |
|---|---|---|---|---|---|---|
"""


def settings_page() -> str:
    """Every setting with its default and meaning, the fields of a policy, and the error matrix, as Markdown."""
    rows = [_row(PREFIX + name, field) for name, field in Settings.model_fields.items()]
    policy = [_row(name, field) for name, field in BreakerPolicy.model_fields.items()]
    matrix = [_matrix_row(category, row) for category, row in MATRIX.items()]
    head = "| setting | default | what it is |\n|---|---|---|\n"
    return f"{_INTRO}\n{head}{''.join(rows)}{_POLICY}{''.join(policy)}{_MATRIX}{''.join(matrix)}"


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BreakerPolicy):
        shown = "see below"
    else:
        shown = "[]" if isinstance(default, (tuple, frozenset)) and not default else repr(default)
    return f"| `{name}` | {shown} | {field.description or ''} |\n"


def _matrix_row(category: ErrorCategory, row: Row) -> str:
    values = (category.value, row.severity.value, row.strategy.value, row.max_retries, row.growth.value)
    flags = ("yes" if flag else "no" for flag in (row.transient, row.counts))
    return "| " + " | ".join(map(str, (*values, *flags))) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
