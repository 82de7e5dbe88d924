"""`celery -A app dashboard`: Flower with Celeriac's pages in it. Every option of Flower works."""

from __future__ import annotations

import errno
import socket

import click
from celery.bin.base import CeleryCommand

_CANNOT_LISTEN = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)


class DashboardError(click.ClickException):
    """One sentence on standard error, and exit code 1."""


class WrongUseError(DashboardError):
    """The same for an app or an option that cannot work however often it is tried."""

    exit_code = 2


@click.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.argument("tornado_argv", metavar="[FLOWER OPTION]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def dashboard(ctx: click.Context, tornado_argv: tuple[str, ...]) -> None:
    """Flower with the page Breakers: every circuit, its state, and a reset with a reason.

    Takes every option of `celery flower`, for example --port=5555 --address=127.0.0.1 --url_prefix=flower
    --basic-auth=USER:PASSWORD (without a login, resets are off).
    """
    from flower import command
    from tornado import options

    from resilience.flower.install import install
    from resilience.flower.loader import UnsupportedFlowerError
    from resilience.middleware import Resilience
    from resilience.settings import SettingsError

    app = ctx.obj.app
    resilience = getattr(app, "resilience", None)
    if not isinstance(resilience, Resilience):
        raise WrongUseError(
            f"the app {app.main!r} has no Celeriac: add `Resilience(app)` (from resilience import "
            "Resilience) where the app is made, or start the stock dashboard with `celery flower`"
        )
    try:
        install(resilience)
        # The callback and not the command: Flower reads Celery's context from the context it is called in.
        command.flower.callback(tornado_argv=tornado_argv)
    except SettingsError as error:
        raise WrongUseError(f"celeriac: {error}") from None
    except UnsupportedFlowerError as error:
        raise DashboardError(str(error)) from None
    except options.Error as error:
        raise WrongUseError(f"wrong option of Flower: {error}") from None
    except OSError as error:
        if not _is_about_listening(error):
            raise
        raise DashboardError(
            f"the dashboard cannot listen on {_address(options.options)}: {error.strerror}; "
            "choose another with --port=... or --address=..."
        ) from None


def _is_about_listening(error: OSError) -> bool:
    """A socket's error, not that of a file such as a certificate."""
    return isinstance(error, socket.gaierror) or (error.errno in _CANNOT_LISTEN and error.filename is None)


def _address(options: object) -> str:
    unix_socket = getattr(options, "unix_socket", "")
    if unix_socket:
        return str(unix_socket)
    return f"{getattr(options, 'address', '') or '*'}:{getattr(options, 'port', '')}"
