"""Safe checkout: a worker takes tasks only while what it needs for them is there.

Checks that the user registered are run by the worker's main process, each in a thread of its own, and their verdicts
are kept: taking a task costs no look. A task that finds the resource gone all the same raises NotReadyError; then the
worker leaves the rotation at once, and is back when its checks have passed again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilience.probing import Probe, Probing
from signals.redact import describe

if TYPE_CHECKING:
    from resilience.workers.rotation import Rotation

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
CALM_S = 60.0
"""A worker that took tasks for so long without being found unready begins with the first pause again."""

AGAIN_S = 5.0
"""A check that failed is looked at so soon again at the latest."""

LATE_S = 2.0
"""A verdict that is so much older than it should be is none: the process was frozen, or starved."""

_FOUND = "a task"


@dataclass(frozen=True)
class ReadyCheck:
    """`probe` passes unless it raises or returns False; it is called every `every_s` seconds, for `timeout_s` at most.

    Raises ValueError for times that are not seconds above 0.
    """

    name: str
    probe: Probe
    every_s: float = 5.0
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        for field in ("every_s", "timeout_s"):
            seconds = getattr(self, field)
            if not (isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds > 0):
                raise ValueError(
                    f"ready check {self.name}: {field}={seconds!r} is not usable: seconds above 0 are right"
                )


@dataclass(frozen=True)
class Verdict:
    """What one look found: `why` the worker is not ready, "" if it is; `asked_at`: monotonic time of its begin."""

    why: str
    asked_at: float


class Lookout:
    """Looks at one check again and again. `heard` is told every verdict, in the lookout's thread."""

    def __init__(self, check: ReadyCheck, heard: Callable[[Lookout, Verdict], None]) -> None:
        self.check = check
        self.verdict: Verdict | None = None
        self.first = threading.Event()
        self._heard = heard
        self._hurry = threading.Event()
        self._stopped = False
        self._probing: Probing | None = None
        self._started_at = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._run, name="celeriac-lookout", daemon=True).start()

    def look_now(self) -> None:
        """Do not wait for the next time."""
        self._hurry.set()

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._hurry.set()

    def late_s(self, now: float) -> float:
        """How much older its verdict is than it may be; not above 0 while all is well."""
        since = self._started_at if self.verdict is None else self.verdict.asked_at
        return now - since - self.check.every_s - 2 * self.check.timeout_s - LATE_S

    def _run(self) -> None:
        while not self._stopped:
            self._hurry.clear()
            self.verdict = verdict = self._look()
            self._heard(self, verdict)
            self.first.set()
            self._hurry.wait(min(self.check.every_s, AGAIN_S) if verdict.why else self.check.every_s)

    def _look(self) -> Verdict:
        asked_at = time.monotonic()
        try:
            probing = self._probing or Probing(self.check.probe)
        except RuntimeError as error:  # no thread to be had now; without this one nobody would ever look again
            return Verdict(describe(error), asked_at)
        self._probing = None if probing.ended(self.check.timeout_s) else probing  # one that hangs gets no second
        return Verdict(probing.why_not, asked_at)


class Pause:
    """How long a worker stays out when a task found it unready: a second, twice as long each time, 30 s at most. Pure.

    Times are monotonic.
    """

    def __init__(self) -> None:
        self._pause_s = 0.0
        self.found_at = -math.inf
        self.until = -math.inf

    def begin(self, now: float) -> None:
        """A task found it unready; a second one during the same pause says nothing new."""
        self.found_at = now
        if now < self.until:
            return
        calm = now - self.until > CALM_S
        self._pause_s = FIRST_PAUSE_S if calm else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self.until = now + self._pause_s


class Checkout:
    """One per app. Checks are registered anywhere, and run in the main process of a worker alone."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._checks: list[ReadyCheck] = []
        self._lookouts: list[Lookout] = []
        self._pause = Pause()
        self._lock = threading.Lock()
        self._on = False

    def add(self, check: ReadyCheck) -> None:
        """Register a check; one of the same name takes the place of the former. Raises RuntimeError in a worker."""
        if self._on:
            raise RuntimeError(
                f"ready check {check.name} comes too late: register it where the app's tasks are defined"
            )
        self._checks = [*(each for each in self._checks if each.name != check.name), check]

    def start(self) -> bool:
        """In a worker, before it takes its first task: returns when every check was looked at, or took its time.

        False if it was started before.
        """
        if self._on:
            return False
        self._on = True
        self._lookouts = [Lookout(check, self._heard) for check in self._checks]
        for lookout in self._lookouts:
            lookout.start()
        for lookout in self._lookouts:
            lookout.first.wait(lookout.check.timeout_s + LATE_S)
        self._rotation.on_look.append(self._look)
        return True

    def found_not_ready(self, why: str) -> None:
        """A task found the resource gone: leave at once, and have all checks looked at. From any thread."""
        if not self._on:
            return
        with self._lock:
            self._pause.begin(time.monotonic())
        self._rotation.leave_rotation(f"a task found it not ready: {why}", by=_FOUND)
        for lookout in self._lookouts:
            lookout.look_now()

    def _heard(self, lookout: Lookout, verdict: Verdict) -> None:
        name = lookout.check.name
        if verdict.why:
            self._rotation.leave_rotation(f"its check {name} fails: {verdict.why}", by=f"check {name}")
        else:
            self._rotation.return_to_rotation(by=f"check {name}")

    def _look(self) -> None:
        """Now and then, in the consumer's loop. No I/O."""
        now = time.monotonic()
        for lookout in self._lookouts:
            if lookout.late_s(now) > 0:
                name = lookout.check.name
                self._rotation.leave_rotation(f"its check {name} was not looked at in time", by=f"check {name}")
                lookout.look_now()
        if now >= self._pause.until and all(self._seen_since_found(lookout) for lookout in self._lookouts):
            self._rotation.return_to_rotation(by=_FOUND)

    def _seen_since_found(self, lookout: Lookout) -> bool:
        return lookout.verdict is not None and lookout.verdict.asked_at >= self._pause.found_at
