"""The program that every child passes through: arrange to die with the parent, then become the real command.

    python -I -S child.py PARENT_PID SIGNAL -- command argument...

It runs between fork and exec, in about 15 ms, so it imports the standard library's smallest parts and nothing
of ours. A `preexec_fn` would be shorter but runs Python code in a forked copy of a process with threads,
where it can deadlock.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN = 127  # what a shell answers for a command that it cannot start


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Have the kernel send `death_signal` here when the thread that started this process ends (Linux only).

    The setting survives exec and is not inherited by further forks. Exits when `parent_pid` is already gone,
    because then nobody is left whose death could be noticed.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG, {death_signal}): {os.strerror(code)}")
    if os.getppid() != parent_pid:
        sys.exit(f"the parent process {parent_pid} ended before its child could start")


def main(arguments: list[str]) -> None:
    """Set the death signal, then become the command; does not return."""
    parent_pid, death_signal, separator, *command = arguments
    if separator != "--" or not command:
        sys.exit("usage: child.py PARENT_PID SIGNAL -- command argument...")
    die_with_parent(int(parent_pid), int(death_signal))
    try:
        os.execvp(command[0], command)  # noqa: S606  becoming the command is this program's purpose
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201  goes to the child's log
        sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    main(sys.argv[1:])
