"""`celery -A app dashboard`: Flower with Celeriac's pages in it. Every option of Flower works."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading

import click
from celery.bin.base import CeleryCommand

from resilience.cli.context import Refused, Wrong, resilience_of

LEAVES_WITHIN_S = 3.0
_CANNOT_LISTEN = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)


@click.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.argument("tornado_argv", metavar="[FLOWER OPTION]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def dashboard(context: click.Context, tornado_argv: tuple[str, ...]) -> None:
    """Flower with the page Breakers: every circuit, its state, and what an operator can do to it.

    Takes every option of `celery flower`, for example --port=5555 --address=127.0.0.1 --url_prefix=flower
    --basic-auth=USER:PASSWORD (without a login, nothing can be changed).
    """
    resilience = resilience_of(context)
    _check_options(tornado_argv)

    from flower import command
    from tornado.options import options

    from resilience.flower.install import install
    from resilience.flower.loader import UnsupportedFlowerError
    from resilience.settings import SettingsError

    try:
        install(resilience)
    except SettingsError as error:
        raise Wrong(str(error)) from None
    except UnsupportedFlowerError as error:
        raise Refused(str(error)) from None
    try:
        # The callback and not the command: Flower reads Celery's context from the context it is called in.
        command.flower.callback(tornado_argv=tornado_argv)
    except OSError as error:
        if not _is_about_listening(error):
            raise
        where = options.unix_socket or f"{options.address or '*'}:{options.port}"
        raise Refused(
            f"the dashboard cannot listen on {where}: {error.strerror}; choose another with --port=... or --address=..."
        ) from None
    _leave_within(LEAVES_WITHIN_S)


def _check_options(tornado_argv: tuple[str, ...]) -> None:
    """Flower parses its options itself; here only for the sentence that names the wrong one."""
    from flower.command import is_flower_option
    from tornado.options import Error, options

    for argument in filter(is_flower_option, tornado_argv):
        try:
            options.parse_command_line([sys.argv[0], argument], final=False)
        except (Error, ValueError) as error:  # noqa: PERF203  each sentence names its option; a handful of turns
            raise Wrong(f"Flower's option {argument} is wrong: {error}") from None


def _leave_within(seconds: float) -> None:
    """Bound the rest of the stop.

    When the broker went away, a thread of Flower knocks at it for ever and Python waits for that thread: stock Flower
    does not end on SIGTERM or Ctrl-C then.
    """
    exit_anyway = threading.Timer(seconds, os._exit, (0,))
    exit_anyway.daemon = True
    exit_anyway.start()


def _is_about_listening(error: OSError) -> bool:
    """A socket's error, not that of a file such as a certificate."""
    return isinstance(error, socket.gaierror) or (error.errno in _CANNOT_LISTEN and error.filename is None)
