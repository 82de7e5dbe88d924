"""What a worker holds of its broker's messages. It outlives connections: an acknowledgement is never lost with one."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from resilience.delivery.delayed import delayed_key
from resilience.delivery.settling import Settling, drained

_HERE = object()
"""In the place of a pool's handle: the task runs in this very process."""


def as_it_is(_raw: bytes) -> bytes:
    """In what goes back: the server has the text."""
    return b""


Unreadable = Callable[["Held", str, str, bytes, Exception], None]
"""Takes a tag, the list where it lay, bytes in which there is no message, and why; acknowledges the tag in the end."""


class Held(Settling):
    """One per worker, in its main process. Settled from any thread; told to the broker by the loop or by the pulse.

    `running` names the tags whose tasks this worker is running; `blocks` says that the loop stands still meanwhile.
    `stopping`: the worker was told to end and begins nothing any more. `declined`: the server is too old for it.
    `connection` names the one in use: what a former one asked for and comes late takes nothing.
    `one_by_one` asks the pool whether it runs tasks so, in threads of this process.
    `put_off` has the task of one of its messages run again later (see `Later.puts_off`).
    `alone`: the tag of a task that runs while nothing else does, "" without one. `out`: this worker is out of rotation.
    """

    def __init__(self, namespace: str, owner: str, running: Callable[[], set[str]] = set) -> None:
        super().__init__()
        self.namespace = namespace
        self.owner = owner
        self.running = running
        self.blocks = False
        self.stopping = False
        self.declined = False
        self.begins_on_accept = False
        self.one_by_one: Callable[[], bool] = _no
        self.unreadable: Unreadable | None = None
        self.late = 0
        self.received = 0
        self.sources: list[str] = []
        self.drains = False
        self.reconnect_why = ""
        self.dropped = 0
        self.alone = ""
        self.out = False
        self.lease_until = math.inf
        self.say_started: Callable[[], None] = _nothing
        self.put_off: Callable[[Any, float, Callable[[bytes], bytes]], bool] = _never
        self.connection = ""
        self._pid = os.getpid()
        self._messages: dict[str, bytes] = {}
        self._begun: set[str] = set()
        self._jobs: dict[str, Any] = {}
        self._unmarked: deque[str] = deque()
        self._channels: set[object] = set()
        self._unread: object | None = None
        self._disowned: set[str] = set()

    @property
    def is_mine(self) -> bool:
        """False in a forked child: what the worker holds is the main process's."""
        return os.getpid() == self._pid

    @property
    def claims_key(self) -> str:
        return f"{self.namespace}:v1:claims:{self.owner}"

    @property
    def turn_keys(self) -> tuple[str, ...]:
        """The keys that every turn has (see turn.lua)."""
        base = f"{self.namespace}:v1"
        return (
            self.claims_key, delayed_key(self.namespace), self.unbegun_key, alone_key(self.namespace),
            f"{base}:alone:for",
        )  # fmt: skip

    @property
    def unbegun_key(self) -> str:
        return f"{self.namespace}:v1:unbegun:{self.owner}"

    def wait_key(self, source: str) -> str:
        """Where messages of the list `source` move while this worker waits idly."""
        return f"{self.namespace}:v1:wait:{self.owner}:{source}"

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, tag: object) -> bool:
        return tag in self._messages

    def tags(self) -> list[str]:
        """What is held, oldest first."""
        return list(self._messages)

    @property
    def keeps_to_itself(self) -> bool:
        """It takes nothing on purpose: a task runs alone here, or there is to be room for one."""
        return self.drains or self.alone in self._messages

    def reconnect_because(self, why: str) -> None:
        """From another thread: have the loop give up its connection and make a new one."""
        self.reconnect_why = why

    def take(self, tag: str, raw: bytes) -> None:
        self._messages[tag] = raw
        self.received += 1

    def begin(self, tag: str) -> bool:
        """It is handed to the worker now; False if it went back in the meantime."""
        with self._lock:
            if tag not in self._messages:
                return False
            self._begun.add(tag)
            return True

    @property
    def lapsed(self) -> bool:
        """Whether others may have taken over what this worker holds: it could not renew its lease in time."""
        return time.monotonic() > self.lease_until

    def start(self, tag: str) -> bool:
        """Its task runs from now on; False if the message may be somebody else's by now: then it must not run."""
        with self._lock:
            if time.monotonic() > self.lease_until or tag not in self._messages:
                if tag in self._messages:  # the next beat may renew the lease: then nobody would give it back
                    self.reconnect_because("it refused to begin a task while its lease had lapsed")
                return False
            self._unmarked.append(tag)
            if self.blocks or self.begins_on_accept:
                self._jobs[tag] = _HERE
        return True

    def given(self, tag: str, job: Any) -> None:
        """The pool's own handle of a task that it was given."""
        if tag in self._messages:
            self._jobs.setdefault(tag, job)

    def will_end(self) -> set[str]:
        """Tags whose task ends here whatever happens to the connection, or has ended and is not acknowledged yet.

        It was written to a pool process, which may not have accepted it yet, or began in this one. Celery's own list
        of what is active lets go of a task before it acknowledges it, which happens in a later turn of the loop.
        """
        jobs = list(self._jobs.items())
        return {tag for tag, job in jobs if job is _HERE or getattr(job, "_write_to", None) is not None}

    def unmarked(self) -> list[str]:
        """Tags that started and are not marked as such on the server; they are taken out."""
        return drained(self._unmarked)

    @property
    def to_mark(self) -> deque[str]:
        """The same to be taken one by one."""
        return self._unmarked

    def ack(self, tag: str) -> None:
        """It ended."""
        if tag in self._messages:
            self._begun.discard(tag)
            self._jobs.pop(tag, None)
            self._acked.append(tag)  # first: at every instant it is known here as one or the other
            self._messages.pop(tag, None)

    def give_back(self, tag: str, rewrite: Callable[[bytes], bytes]) -> None:
        """Back to the front of its queue, as `rewrite` makes it."""
        raw = self._messages.get(tag)
        text = b"" if raw is None else rewrite(raw)
        if self._messages.pop(tag, None) is not None:
            self._returned.append((tag, text, ""))
            self._begun.discard(tag)
            self._jobs.pop(tag, None)

    def hand_over(self, tag: str, label: str, rewrite: Callable[[bytes], bytes] = as_it_is) -> bool:
        """It is due later, as `label` says (see `eta.py`), as `rewrite` makes it; False if it is not held any more."""
        with self._lock:
            raw = self._messages.pop(tag, None)
            if raw is None:
                return False
            self._begun.discard(tag)
            self._jobs.pop(tag, None)
            self._returned.append((tag, rewrite(raw), label))
        return True

    def hand_on(self, tag: str, text: bytes, key: str) -> bool:
        """It goes to the back of the list `key`, as `text`; False if it is not held any more."""
        with self._lock:
            if self._messages.pop(tag, None) is None:
                return False
            self._begun.discard(tag)
            self._returned.append((tag, text, f"to:{key}"))
        return True

    def give_back_idle(self, rewrite: Callable[[bytes], bytes]) -> list[str]:
        """Everything that is not running goes back, newest first, so that it lies in its old order. Says what."""
        with self._lock:  # before the look: what begins after it is refused
            running = self.running() | self.will_end()
            idle = [tag for tag in reversed(list(self._messages)) if tag not in running]
            for tag in idle:
                self.give_back(tag, rewrite)
        return idle

    def drop_all_but(self, claimed: set[str]) -> None:
        """Others took over what is not claimed any more; what of it does not run yet shall not."""
        with self._lock:
            running = self.running() | self.will_end()
            for tag in [tag for tag in self._messages if tag not in claimed and tag not in running]:
                del self._messages[tag]
                self._begun.discard(tag)
                self._jobs.pop(tag, None)
                self.dropped += 1

    def give_back_behind(self, rewrite: Callable[[bytes], bytes]) -> None:
        """What waits behind the task in which the loop of a solo worker stands still goes back; newest first."""
        with self._lock:
            for tag in reversed(list(self._messages)):
                if tag not in self._begun:
                    self.give_back(tag, rewrite)

    def asks_ahead(self) -> None:
        """More is asked for before the last task of a window begins: its loop reads the answer when that is over."""
        self._unread = object()

    def hears(self) -> set[str]:
        """Such an answer is read now: the tags in it that went back in the meantime."""
        with self._lock:
            self._unread = None
            disowned, self._disowned = self._disowned, set()
            return disowned

    def give_back_unread(self, claimed: Callable[[], Iterable[str]]) -> None:
        """What an answer brings that lies unread behind such a task goes back. `claimed` asks the server."""
        unread = self._unread
        if unread is None:
            return
        tags = set(claimed())
        with self._lock:
            if self._unread is unread:  # else the loop has read it, and knows them
                held = set(self._messages)  # first: what ends meanwhile is then known as one or the other
                new = tags.difference(held, self._settling(), self._disowned)
                self._disowned |= new
                for tag in sorted(new, key=int, reverse=True):
                    self.give_back_unknown(tag)

    def give_back_unknown(self, tag: str) -> None:
        """A claim whose delivery was lost with a connection goes back as it is."""
        self._returned.append((tag, b"", ""))

    def leave(self) -> None:
        """The claims are to be looked at anew, over another connection, before anything else begins."""
        self.lease_until = -math.inf

    def renewed(self, lease_s: float) -> None:
        """This worker's claims are valid for so long from now."""
        self.lease_until = time.monotonic() + lease_s

    @property
    def waits_to_be_told(self) -> bool:
        return self.unsettled or bool(self._unmarked)

    def joined_by(self, channel: object) -> bool:
        """A channel begins; True if it is the only one, so that nothing can be under way on another."""
        self._channels.add(channel)
        return len(self._channels) == 1

    def left_by(self, channel: object) -> bool:
        """A channel ended; True if it was the last."""
        self._channels.discard(channel)
        return not self._channels


def alone_key(namespace: str) -> str:
    """The list of what must run while nothing else does (see turn.lua)."""
    return f"{namespace}:v1:alone"


def _nothing() -> None:
    """Before the first connection there is nobody to tell."""


def _no() -> bool:
    return False


def _never(_message: Any, _delay_s: float, _rewrite: Callable[[bytes], bytes]) -> bool:
    return False
