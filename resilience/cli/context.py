"""What every subcommand needs: the app with its middleware, output for people or scripts, one sentence on failure.

Exit codes: 0 done, 1 the world is not as needed (Redis away, changed meanwhile), 2 the command was wrong.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from resilience.middleware import Resilience


class Refused(click.ClickException):
    """The world is not as needed; exit code 1 unless another is given."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code  # a class variable in click's types, read from the instance


class Wrong(click.ClickException):
    """The command cannot be meant; exit code 2."""

    exit_code = 2


def resilience_of(context: click.Context) -> Resilience:
    """The middleware of the app named with -A."""
    from resilience.plans import PlanError
    from resilience.settings import SettingsError

    app = context.obj.app
    resilience = getattr(app, "resilience", None)
    if resilience is None:
        raise Wrong(
            f"app {app.main or '?'} has no Celeriac: name one that calls Resilience(app), as in `celery -A tasks ...`"
        )
    try:
        resilience.settings  # noqa: B018  validation happens on first use
    except (SettingsError, PlanError) as error:
        raise Wrong(str(error)) from None
    return resilience  # type: ignore[no-any-return]


@contextmanager
def needs_redis(what: str) -> Iterator[None]:
    """Turn an unreachable Redis into one sentence."""
    from resilience.delivery.broker import BROKER_ERRORS
    from signals.redact import describe

    try:
        yield
    except BROKER_ERRORS as error:
        raise Refused(f"{what} is not reachable: {describe(error)}. Is Redis running, and is its URL right?") from None


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def operator() -> str:
    """Who acts, for the audit: the login name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
