"""Runs named child processes, starts again what dies, and leaves nothing behind.

Own code, about 150 lines on psutil, because no library gives all three of restart, no orphan after a SIGKILL
of the supervisor, and a kill by name from Python: honcho ends everything when one process ends, circus needs
ZeroMQ and an event loop and may leave a stopped process's children (its issue 1044), and supervisord wants a
daemon and a configuration file.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from resilience.local.errors import EmbeddedPoolError
from resilience.local.keeper import ChildSpec, EventKind, Keeper, Member, SupervisorEvent

__all__ = ["ChildSpec", "EventKind", "Member", "Supervisor", "SupervisorEvent"]

_KILLED_WITHIN_S = 5.0


def _ignore(_event: SupervisorEvent) -> None:
    """The default observer: nobody asked."""


class Supervisor:
    """Keeps the children of `specs` running from `start()` to `stop()`; also a context manager.

    Each child's output is appended to `log_dir/NAME.log`. `on_event` is called on the child's own thread.
    Children end with this process whatever ends it: an exception, Ctrl-C (once or twice), a normal exit, on
    Linux also SIGKILL.
    """

    def __init__(
        self,
        specs: Iterable[ChildSpec] = (),
        *,
        log_dir: Path,
        on_event: Callable[[SupervisorEvent], None] = _ignore,
    ) -> None:
        self._specs = tuple(specs)
        self._log_dir = log_dir
        self._on_event = on_event
        self._keepers: dict[str, Keeper] = {}
        self._owner_pid = os.getpid()
        self._descendants: set[psutil.Process] = set()
        self._stop_begun = False

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start every child of `specs`. Raises EmbeddedPoolError, with nothing left running."""
        try:
            for spec in self._specs:
                self.add(spec)
        except BaseException:
            self.stop()
            raise

    def add(self, spec: ChildSpec) -> None:
        """Start one more child now."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        keeper = Keeper(spec, self._log_dir / f"{spec.name}.log", self._on_event)
        self.adopt(keeper)
        keeper.start()

    def adopt(self, keeper: Keeper) -> None:
        """Take over the stopping of a child that somebody else set up, such as a Redis server."""
        name = keeper.spec.name
        if name in self._keepers:
            raise EmbeddedPoolError(f"there is already a child named {name}; give this one another name")
        if not self._keepers:
            atexit.register(self._stop_at_exit)
        self._keepers[name] = keeper

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send `sig` to the main process of child `name`; it is started again like after any other death."""
        self._keeper(name).send(sig)

    def member(self, name: str) -> Member:
        return self._keeper(name).member

    def members(self) -> tuple[Member, ...]:
        """Every child as it is now, in the order of their start."""
        return tuple(keeper.member for keeper in self._keepers.values())

    def log_tail(self, name: str, lines: int = 5) -> str:
        """The last non-empty lines that child `name` wrote."""
        return self._keeper(name).log_tail(lines)

    def stop(self) -> None:
        """Stop every child: its stop signal, its grace, then SIGKILL to its group and to what left the group.

        May be called again. A KeyboardInterrupt meanwhile (a second Ctrl-C) skips the remaining grace and is
        raised when all is stopped. Takes at most the longest grace plus 5 s for each of the two stages (see
        `ChildSpec.stops_last`).
        """
        if os.getpid() != self._owner_pid:
            return  # a forked copy of this process: the children are not its own
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                # begun before and not finished: interrupted, wherever that hit
                hurry, self._stop_begun = self._stop_begun, True
                self._stop_all(hurry)
                break
            except KeyboardInterrupt as raised:
                interrupt = raised
        self._stop_begun = False
        atexit.unregister(self._stop_at_exit)
        if interrupt is not None:
            raise interrupt

    def _stop_at_exit(self) -> None:
        # still here at exit: nobody stopped it, or a Ctrl-C hit before stop() could begin; grace is over
        self._stop_begun = True
        self.stop()

    def _keeper(self, name: str) -> Keeper:
        try:
            return self._keepers[name]
        except KeyError:
            known = ", ".join(self._keepers) or "none"
            raise EmbeddedPoolError(f"there is no child named {name}; there are: {known}") from None

    def _stop_all(self, hurry: bool) -> None:
        survivors: list[str] = []
        for last in (False, True):
            stage = [keeper for keeper in self._keepers.values() if keeper.spec.stops_last is last]
            survivors += self._stop_stage(stage, hurry)
        self._kill_descendants()
        if survivors:
            raise EmbeddedPoolError(f"still running after SIGKILL, look at them with ps: {', '.join(survivors)}")

    def _stop_stage(self, keepers: list[Keeper], hurry: bool) -> list[str]:
        self._remember_descendants(keepers)
        for keeper in keepers:
            keeper.request_stop()
        begun = time.monotonic()
        for keeper in keepers:
            if hurry or not keeper.join(begun + keeper.spec.stop_grace_s - time.monotonic()):
                keeper.kill_group()
        deadline = time.monotonic() + _KILLED_WITHIN_S
        return [
            f"{keeper.spec.name} (pid {keeper.member.pid})"
            for keeper in keepers
            if not keeper.join(deadline - time.monotonic())
        ]

    def _remember_descendants(self, keepers: list[Keeper]) -> None:
        # before the mains end: afterwards a process that left its group cannot be found through its parent
        for keeper in keepers:
            member = keeper.member
            if member.alive and member.pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._descendants.update(psutil.Process(member.pid).children(recursive=True))

    def _kill_descendants(self) -> None:
        for process in self._descendants:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil knows a reused pid by its start time
                process.kill()
        poll = Retrying(
            stop=stop_after_delay(_KILLED_WITHIN_S),
            wait=wait_fixed(0.01),
            retry=retry_if_result(lambda running: running),
            retry_error_callback=lambda _state: None,
        )
        poll(lambda: any(_runs(process) for process in self._descendants))
        self._descendants.clear()


def _runs(process: psutil.Process) -> bool:
    # an orphan that the machine's init has not collected yet is dead all the same
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
