"""Celery's pool of threads, which runs short calls one by one instead of all at once.

Python runs one thread at a time. Where short tasks are spread over many threads, each pays for several changes from one
thread to another, and for a no-op that is as much as the task. So one thread runs the calls while the others sleep,
except for one that watches: when the line has hardly moved for `LOOK_S`, all that are needed are woken. And where calls
turn out to wait (for the network, a lock, a child), each gets a thread at once, as in Celery, and it is tried again
later: `pace.py` says when.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic, sleep, thread_time
from typing import Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import TaskPool
from celery.exceptions import TaskRevokedError

from resilience.delivery.held import Held
from resilience.workers.interrupted import stand_in_line, was_interrupted
from resilience.workers.pace import LOOK_S, Pace, Watch

_AT_A_TIME = 16
"""Calls between two looks at the clock of the processor."""
_AT_EXIT = getattr(threading, "_register_atexit", None)
"""What has `concurrent.futures` end its threads before Python waits for all of them: there is no public way."""

logger = logging.getLogger("celeriac")


class ShutDownError(RuntimeError):
    """The pool takes no more calls; this one was not taken."""


def run_one_by_one(pool: Any, held: Held) -> None:
    """Have a pool of threads run short calls one by one, and `held` know whether it does. Any other stays as it is."""
    executor = getattr(pool, "executor", None)
    if type(executor) is not ThreadPoolExecutor or type(pool).on_apply is not TaskPool.on_apply:
        return  # also a pool of the user's, which does something of its own with each task
    threads = pool.executor = Threads(pool.limit)
    held.one_by_one = threads.one_by_one

    def on_apply(
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        first = was_interrupted(getattr(accept_callback, "__self__", None))
        try:
            threads.submit(apply_target, target, args, kwargs, callback, accept_callback, first=first)
        except ShutDownError as error:
            # A cold stop came while its message was received. Celery takes this for "not here", and it goes back.
            raise TaskRevokedError(str(error)) from error

    pool.on_apply = on_apply


class Threads:
    """In the place of the executor, with what Celery's pool uses of it. `submit` may be called from any thread.

    Each thread sleeps, is awake (it looks for a call before it sleeps), or watches. Whenever a call stands in line,
    a thread was woken for it, or all are awake, or one watches.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pace = Pace()
        self._line: deque[_Call] = deque()
        self._ran = 0
        self._mutex = threading.Lock()
        self._threads: set[threading.Thread] = set()  # the name that Celery's `inspect stats` reads
        self._asleep: list[_Bed] = []
        self._awake = 0
        self._watched = False
        self._closed = False
        self._pid = os.getpid()
        (_AT_EXIT or atexit.register)(self._end)

    def one_by_one(self) -> bool:
        """Whether it runs calls so now."""
        return self._pace.one_by_one

    def submit(self, call: Callable[..., object], *args: Any, first: bool = False) -> None:
        """Have a thread call `call(*args)`, first come, first served, those with `first` before the others.

        Raises ShutDownError after `shutdown`, and RuntimeError when it has no thread and gets none.
        """
        one = _Call(call, args, first)
        # Before the rest: who stops being awake, or watching, looks here after that.
        if first:
            stand_in_line(self._line, one, _goes_first)
        else:
            self._line.append(one)
        if self._closed:
            self._refuse(one, ShutDownError("this worker's pool of threads was shut down: it takes no more calls"))
        elif not self._awake or not self._pace.at(monotonic()):
            if not self._wake(1):
                self._refuse(one, RuntimeError("the system has no thread left for this worker's pool"))
        elif not self._watched:
            self._set_watch()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; `cancel_futures` drops those in line. With `wait` it returns when the others ended."""
        with self._mutex:
            self._closed = True
            if cancel_futures:
                self._line.clear()
            self._awake += len(self._asleep)
            while self._asleep:
                self._asleep.pop().rouse(watches=False)
        self._wake(len(self._line))  # nobody watches any more
        if wait:
            for thread in list(self._threads):
                thread.join()

    def _end(self) -> None:
        if os.getpid() == self._pid:  # else it is a child that a task forked: it has none of the threads
            self.shutdown()

    def _refuse(self, one: _Call, error: RuntimeError) -> None:
        with suppress(ValueError):  # a thread has it, and runs it
            self._line.remove(one)
            raise error

    def _wake(self, count: int) -> bool:
        """So many more threads run calls, if there are so many; False if none does."""
        with self._mutex:
            while count > 0 and self._rouse_one(watches=False):
                self._awake += 1
                count -= 1
            return bool(self._awake or self._watched)

    def _set_watch(self) -> None:
        with self._mutex:
            if not self._watched:
                self._watched = self._rouse_one(watches=True)

    def _rouse_one(self, *, watches: bool) -> bool:
        """One more thread has something to do; False if all have, or the system has none left."""
        if self._asleep:
            self._asleep.pop().rouse(watches=watches)  # who slept least: what it works with is still near
            return True
        if len(self._threads) >= self._limit:
            return False
        bed = _Bed(watches=watches)
        name = f"celeriac-pool-{len(self._threads)}"
        thread = threading.Thread(target=self._live, args=(bed,), name=name, daemon=_AT_EXIT is None)
        try:
            thread.start()
        except RuntimeError as error:
            logger.warning("celeriac: tasks wait for others to end, as this worker's pool gets no thread: %s", error)
            return False
        self._threads.add(thread)
        return True

    def _live(self, bed: _Bed) -> None:
        while True:
            if not bed.watches:
                self._work()
            elif self._sees_one_wait():
                self._wake(len(self._line) - 1)  # the one more is this one
            with self._mutex:
                if bed.watches:
                    self._watched = False
                else:
                    self._awake -= 1
                if self._line and (not self._awake or self._closed or not self._pace.one_by_one):
                    bed.watches = False
                    self._awake += 1
                    continue
                if self._line and not self._watched:
                    bed.watches = self._watched = True
                    continue
                if self._closed:
                    return
                self._asleep.append(bed)
            bed.sleep()

    def _work(self) -> None:
        """Run calls until there is none, or until they run one by one and this thread is one too many."""
        pace = self._pace
        while self._line:
            begun_s, busy_s = monotonic(), thread_time()
            ran = self._run(_AT_A_TIME, begun_s + LOOK_S)
            if pace.one_by_one:
                now_s = monotonic()
                pace.ran(ran, now_s - begun_s, thread_time() - busy_s, now_s)
                if self._awake > 1:
                    return

    def _run(self, most: int, until_s: float) -> int:
        """Begin so many calls at most, and none after that time; says how many there were."""
        line = self._line
        for ran in range(most):
            if ran and monotonic() > until_s:
                return ran
            try:
                one = line.popleft()
            except IndexError:
                return ran
            self._ran += 1  # may miss some where several threads run, which does not matter then
            try:
                one.call(*one.args)
            except TaskRevokedError as refused:
                logger.debug("celeriac: %s", refused)  # `starts.py`, which says why it has the worker reconnect
            except BaseException:
                logger.exception("celeriac: a pool's thread goes on after an error in Celery's handling of a task")
            del one  # not for as long as it sleeps
        return most

    def _sees_one_wait(self) -> bool:
        """Watch until calls run at once; False when nothing stood in line for a while, or at the end."""
        watch, looked_s, seen = Watch(), monotonic(), self._ran
        while not (watch.is_over or self._closed):
            stood = bool(self._line)
            sleep(watch.look_s)
            late_s, looked_s = monotonic() - looked_s - watch.look_s, monotonic()
            began, seen = self._ran - seen, self._ran
            if watch.sees_one_wait(stands=stood and bool(self._line), began=began, late_s=late_s):
                self._pace.one_waited(looked_s)
            if self._line and not self._pace.one_by_one:
                return True
        return False


class _Call:
    __slots__ = ("args", "call", "first")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], first: bool) -> None:
        self.call, self.args, self.first = call, args, first


def _goes_first(one: _Call) -> bool:
    return one.first


class _Bed:
    """Where one thread sleeps, and what it does when it is roused."""

    def __init__(self, *, watches: bool) -> None:
        self.watches = watches
        self._lock = threading.Lock()
        self._lock.acquire()

    def rouse(self, *, watches: bool) -> None:
        self.watches = watches
        self._lock.release()

    def sleep(self) -> None:
        self._lock.acquire()
