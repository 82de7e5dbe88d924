"""The settings page of the documentation, written from the settings themselves: `python -m resilience.reference`."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from resilience.breaker.policy import BreakerPolicy
from resilience.settings import PREFIX, Settings

_INTRO = """# Settings

Written by `python -m resilience.reference`; change the code, not this page.

Settings live in `app.conf` under these names (with Django's namespace too), or in the environment in capitals
(`RESILIENCE_NAMESPACE`; JSON for `resilience_breaker` and `resilience_circuits`). The app beats the environment, which
beats the default. A name that ends in `_s` is in seconds. A wrong value or an unknown name stops the worker at start.
"""


def settings_page() -> str:
    """Every setting with its default and meaning, then the fields of a policy, as Markdown."""
    rows = [_row(PREFIX + name, field) for name, field in Settings.model_fields.items()]
    policy = [_row(name, field) for name, field in BreakerPolicy.model_fields.items()]
    head = "| setting | default | what it is |\n|---|---|---|\n"
    return (
        f"{_INTRO}\n{head}{''.join(rows)}\n## A circuit's policy\n\n"
        "The value of `resilience_breaker` (for all circuits) and of each entry of `resilience_circuits` (by name):\n"
        '`resilience_circuits = {"payments": {"open_s": 30}}`.\n\n'
        f"| field | default | what it is |\n|---|---|---|\n{''.join(policy)}"
    )


def _row(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "see below" if isinstance(default, BreakerPolicy) else repr(default)
    return f"| `{name}` | {shown} | {field.description or ''} |\n"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
