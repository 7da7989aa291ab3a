"""Threads that do for an event loop what would block it, and share work out: a bounded number, none of them the loop's own, which are for the program
around us. Unlike those of ``concurrent.futures`` they work for threads of a program whose main thread has ended, too."""

from __future__ import annotations

import atexit

# For what imports it later, as lancedb does: Python refuses that once the main thread has ended.
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar
from weakref import WeakSet

logger = logging.getLogger(__name__)
T = TypeVar("T")
# A thread without work ends after so long.
IDLE_S = 10.0
# A program that ends waits so long for what was stopped.
ENDING_S = 15.0


def nothing() -> None:
    """Stops nothing."""


def settle(future: Future[T], work: Callable[[], T]) -> None:
    """Do ``work`` for whoever waits for ``future``."""
    try:
        future.set_result(work())
    except BaseException as error:
        # The edge of this thread: whoever waits for the future gets it.
        future.set_exception(error)
    finally:
        # An error's traceback would keep the future, and that the error, with all there is of what failed.
        del future


# What comes of it, what to do, and what stops that.
Job = tuple[Future[Any], Callable[[], Any], Callable[[], object]]


class Threads:
    """At most ``most`` threads called ``name``, each begun when it is needed. A program that ends stops what they do, and waits for those that work;
    they are daemons, as it does not for those that wait.

    What is submitted after :meth:`close` is still done, so that nobody waits for it in vain, but no thread waits for more. ``with`` closes, and
    waits until all that was submitted is done.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._changed, self._rested = threading.Condition(self._lock), threading.Condition(self._lock)
        self._waiting: deque[Job] = deque()
        self._busy: dict[Future[Any], Callable[[], object]] = {}
        self._begun: list[threading.Thread] = []
        self._running = self._idle = 0
        self._closed = False
        self._pid = os.getpid()

    def submit(self, work: Callable[[], T], stop: Callable[[], object] = nothing) -> Future[T]:
        """Have ``work`` done; what is cancelled before it began is not. ``stop`` is called where the program ends meanwhile, to have it end soon."""
        if self._pid != os.getpid():
            # Threads do not come along into a forked process.
            self._begin()
        future: Future[T] = Future()
        with self._changed:
            if _ending.is_set():
                # What is under way is to end soon, too.
                future.cancel()
                return future
            self._waiting.append((future, work, stop))
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._running < self._most:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # Nobody would do it: the system has no more of them, or the process ends.
                    self._waiting.pop()
                    raise
                self._running += 1
                self._begun = [*(one for one in self._begun if one.is_alive()), thread]
        return future

    def close(self) -> None:
        """Let the threads end, each when it is done with what it does. Safe twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        with self._changed:
            begun = self._begun
        for thread in begun:
            thread.join()

    def _stop(self) -> None:
        """The program ends: stop what is done, and do nothing of what waits."""
        with self._changed:
            waiting, stops = [*self._waiting], [*self._busy.values()]
        for future, _, _ in waiting:
            future.cancel()
        for stop in stops:
            # Whatever is wrong with one, the others are to be stopped too, and nobody is left to be told.
            with suppress(Exception):
                stop()

    def _rest(self, until: float) -> None:
        """Wait for those that work, at most ``until`` then."""
        with self._rested:
            if not self._rested.wait_for(lambda: self._running == self._idle, max(0.0, until - time.monotonic())):
                logger.warning("%s: still at work %g s after it was stopped", self._name, ENDING_S)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, work, stop = job
            if future.set_running_or_notify_cancel():
                settle(future, work)
            with self._changed:
                del self._busy[future]
            # Not to be kept while waiting for the next.
            del job, future, work, stop

    def _next(self) -> Job | None:
        """What to do next, None for nothing more."""
        with self._changed:
            self._idle += 1
            self._rested.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed, IDLE_S)
            self._idle -= 1
            if self._waiting:
                future, work, stop = self._waiting.popleft()
                self._busy[future] = stop
                return future, work, stop
            self._running -= 1
            return None


_all: WeakSet[Threads] = WeakSet()
_ending = threading.Event()


@atexit.register
def _end_all() -> None:
    # Python ends a daemon where it next comes back from what is not Python's; inside of C++ or Rust that aborts the process.
    until = time.monotonic() + ENDING_S
    _ending.set()
    # Those of a process that this one was forked from are not here.
    own = [threads for threads in list(_all) if threads._pid == os.getpid()]
    for threads in own:
        threads._stop()
    for threads in own:
        threads._rest(until)
