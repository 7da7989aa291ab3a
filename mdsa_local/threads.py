"""Threads that do for an event loop what would block it: a bounded number, none of them the loop's own, which are for the program around us."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
# A thread without work ends after so long.
IDLE_S = 10.0


class Threads:
    """At most ``most`` threads called ``name``, each begun when it is needed. They are daemons: a program that ends does not wait for them.

    What is submitted after :meth:`close` is still done, so that nobody waits for it in vain, but no thread waits for more.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = self._idle = 0
        self._closed = False
        self._pid = os.getpid()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have ``work`` done; what is cancelled before it began is not."""
        if self._pid != os.getpid():
            # Threads do not come along into a forked process.
            self._begin()
        future: Future[T] = Future()
        with self._changed:
            self._waiting.append((future, work))
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._running < self._most:
                self._running += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Let the threads end, each when it is done with what it does. Safe twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    # The edge of this thread: whoever waits for the future gets it.
                    future.set_exception(error)
            # Not to be kept while waiting for the next.
            del job, future, work

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """What to do next, None for nothing more."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed, IDLE_S)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None
