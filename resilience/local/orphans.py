"""No orphans: a child started through here ends when its parent ends, even when the parent is SIGKILLed.

Linux does it in the kernel (`PR_SET_PDEATHSIG`). Three things follow from how the kernel does it:

- The signal is sent when the *thread* that started the child ends, not the process. Start children from a
  thread that lives as long as they do; `Keeper` gives each child such a thread.
- It reaches the child itself, not the child's children. Celery's prefork pool sets it for its own processes;
  whatever else forks sets it itself or starts its children through `bound_to_parent`.
- It does not exist on macOS, where this is a no-op: there, an orderly stop (Ctrl-C, SIGTERM) leaves nothing
  behind and a SIGKILL of the parent does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from resilience.local import child


def bound_to_parent(argv: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command line that runs `argv` so that the kernel ends it with `death_signal` when this process
    ends.

    The process that calls this must also be the one that starts the command. The pid stays the same: the
    wrapper becomes the command. A command that cannot be started says so on standard error and exits with
    127.
    """
    # -I -S: no user site, no site-packages; the wrapper starts quicker, and the real command is not affected
    wrapper = [sys.executable, "-I", "-S", child.__file__]
    return [*wrapper, str(os.getpid()), str(int(death_signal)), "--", *argv]
