"""Which of several services is there: looked at before use, by a bounded probe, seldom; a clear error when none is.

    apis = Services(Service("primary", listens(url)), Service("secondary", listens(other)))
    apis.detect()  # the first that is there, or NoServiceError: what was tried, why each failed, what to do

A verdict is kept for some seconds in each process, and one probe at a time is under way there, so a fleet sends few.
It is advice: a service that dies after it was looked at is found out by the call itself, which then says `doubt`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from resilience.errors.taxonomy import TransientError
from resilience.probing import Probe, Probing

SPREAD = 0.25
"""By this share a verdict lasts longer or shorter, so that processes which began together do not probe together."""


@dataclass(frozen=True)
class Service:
    """`probe` passes unless it raises or returns False. `hint` ends the sentence that says that it is not there.

    `probe` None: it cannot be asked, because it is not set up; `hint` says what is missing.
    """

    name: str
    probe: Probe | None
    hint: str = ""


@dataclass(frozen=True)
class Sighting:
    """What is known of a service: `why_not` it can be used, "" if it can."""

    service: Service
    why_not: str

    @property
    def is_there(self) -> bool:
        return not self.why_not

    def __str__(self) -> str:
        if self.is_there:
            return f"{self.service.name} is there"
        hint = f", {self.service.hint}" if self.service.hint else ""
        return f"{self.service.name} is not there ({self.why_not}{hint})"


class NoServiceError(TransientError):
    """None of the services is there. `tried`: a sentence for each, in order, that says why not and what to do."""

    def __init__(self, tried: Sequence[str]) -> None:
        super().__init__(tuple(tried))  # texts alone: the error travels from a pool process, and into results
        self.tried = tuple(tried)

    def __str__(self) -> str:
        return "no service can be used now: " + "; ".join(self.tried)


def choose(sightings: Sequence[Sighting]) -> Service:
    """The first service that is there. Raises NoServiceError. Pure."""
    for sighting in sightings:
        if sighting.is_there:
            return sighting.service
    raise NoServiceError([str(sighting) for sighting in sightings])


class Services:
    """Services in order of preference, and what this process knows of them. From any thread; a fork begins anew.

    A look takes `timeout_s` at most. A service that was seen is not asked again for `seen_s`, one that was not for
    `missed_s`: short, so that one that comes back is not kept waiting.
    """

    def __init__(self, *services: Service, timeout_s: float = 1.0, seen_s: float = 5.0, missed_s: float = 0.5) -> None:
        if not services:
            raise ValueError("no service to look for: name at least one")
        self._watches = tuple(_Watch(service, timeout_s, seen_s, missed_s) for service in services)

    def detect(self) -> Service:
        """The first service that is there; those after it are not asked. Raises NoServiceError when none is."""
        sightings = []
        for watch in self._watches:
            sightings.append(watch.look())
            if sightings[-1].is_there:
                break
        return choose(sightings)

    def look(self) -> list[Sighting]:
        """What is known of each, asked anew where that is too old."""
        return [watch.look() for watch in self._watches]

    def confirm(self, service: Service) -> None:
        """A call to it went well: that is worth a probe."""
        self._watch(service).note("")

    def doubt(self, service: Service) -> None:
        """A call to it failed: ask before the next one."""
        self._watch(service).forget()

    def _watch(self, service: Service) -> _Watch:
        return next(watch for watch in self._watches if watch.service == service)


class _Watch:
    """One service: its last verdict, and the probe under way."""

    def __init__(self, service: Service, timeout_s: float, seen_s: float, missed_s: float) -> None:
        self.service = service
        self._timeout_s, self._seen_s, self._missed_s = timeout_s, seen_s, missed_s
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._probing: Probing | None = None
        self._why_not = ""
        self._good_until = 0.0

    def look(self) -> Sighting:
        if self.service.probe is None:
            return Sighting(self.service, "it is not set up")
        with self._mine():
            if time.monotonic() < self._good_until:
                return Sighting(self.service, self._why_not)
            probing = self._probing = self._probing or Probing(self.service.probe)
        ended = probing.ended(self._timeout_s)
        why_not = probing.why_not
        with self._mine():
            if self._probing is probing:
                self._note(why_not)
                if ended:
                    self._probing = None
        return Sighting(self.service, why_not)

    def note(self, why_not: str) -> None:
        with self._mine():
            self._note(why_not)

    def forget(self) -> None:
        with self._mine():
            self._good_until = 0.0

    def _mine(self) -> threading.Lock:
        if self._pid != os.getpid():
            self._begin_anew()  # a thread of the parent may have held the lock when this process was forked
        return self._lock

    def _note(self, why_not: str) -> None:
        lasts_s = self._missed_s if why_not else self._seen_s
        spread = 1 + SPREAD * (2 * random.random() - 1)  # noqa: S311  it spreads probes
        self._why_not, self._good_until = why_not, time.monotonic() + lasts_s * spread
