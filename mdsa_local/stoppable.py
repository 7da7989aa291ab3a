"""Streams that any thread may close, even while another waits in them.

A generator alone cannot: closing it while a thread is inside raises. So what it waits for, the model's own stream, is known by a
:class:`Leash` and closed in its place; the thread inside comes out at once and then closes the generator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

T = TypeVar("T")
# On Windows Ctrl-C is not heard before a wait has ended, so that of a caller is never longer: it waits again.
HEARD_S = 0.5


@runtime_checkable
class Closeable(Protocol):
    """What can be stopped from any thread."""

    def close(self) -> None:
        """Stop the work. Safe twice."""


class StoppedError(Exception):
    """Nobody wants the rest: what raises it has told nothing, and whoever catches it ends."""


def never() -> bool:
    """Nobody stops it."""
    return False


# What tells the requests of a load, which is called by its name and settings alone, that nobody wants it any more.
_unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=never)


@contextmanager
def until(stopped: Callable[[], bool]) -> Iterator[None]:
    """While this lasts, what this thread waits for and can break off is broken off when ``stopped`` says so."""
    token = _unwanted.set(stopped)
    try:
        yield
    finally:
        _unwanted.reset(token)


def unwanted() -> Callable[[], bool]:
    """Whether what this thread waits for is wanted no more, for whichever thread watches over it."""
    return _unwanted.get()


class Leash:
    """What a generator waits for at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Closeable | None = None
        self._stopped = False

    def hold(self, work: T) -> T:
        """Know ``work``, if any thread may close it, from now on; closed at once when all was stopped already. Returns it."""
        if isinstance(work, Closeable) and not isinstance(work, Generator):
            with self._lock:
                self._held = work
                stopped = self._stopped
            if stopped:
                work.close()
        return work

    def stopped(self) -> bool:
        """Whether all was stopped."""
        return self._stopped

    def check(self) -> None:
        """Raise :class:`StoppedError` where all was stopped: between two steps that cannot be stopped themselves."""
        if self._stopped:
            raise StoppedError

    def stop(self) -> None:
        """Close what is held, and all that will be."""
        with self._lock:
            self._stopped = True
            held = self._held
        if held is not None:
            held.close()


class Stoppable(Iterator[T], Generic[T]):
    """Iterates the generator that ``make`` returns for a leash. :meth:`close` works from any thread; the others then see the end,
    and ``with`` closes it. ``unread`` is called where it is closed before anybody read from it: the generator has not begun then, and ends without
    a word."""

    def __init__(self, make: Callable[[Leash], Generator[T, None, None]], unread: Callable[[], None] = lambda: None) -> None:
        self._leash = Leash()
        self._steps = make(self._leash)
        self._unread = unread
        self._lock = threading.Lock()
        self._begun = self._inside = self._closed = False

    def __next__(self) -> T:
        with self._lock:
            if self._closed:
                raise StopIteration
            if self._inside:
                raise ValueError("two threads read one stream")
            self._begun = self._inside = True
        try:
            step = next(self._steps)
        finally:
            with self._lock:
                # Of a closed one nobody else gets inside any more.
                closed = self._inside = self._closed
            if closed:
                self._steps.close()
        if closed:
            raise StopIteration
        return step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the work. Safe twice."""
        with self._lock:
            unread = not self._begun and not self._closed
            self._closed = True
            inside, self._inside = self._inside, True
        self._leash.stop()
        if not inside:
            self._steps.close()
        if unread:
            self._unread()
