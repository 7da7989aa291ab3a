"""Streams for event loops: read in threads of their own, and stopped when the task that waits for them is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mdsa_local.stoppable import Stoppable
from mdsa_local.threads import Threads

# So many streams are read at once; more wait. A model writes 8 at once and lets 64 wait unless it is set otherwise.
READING, STOPPING = 32, 4
# A task that is cancelled waits so long for the model to stop. Routing and retrieval cannot be stopped in the middle; the stop comes behind them.
PATIENCE_S = 0.2
T = TypeVar("T")


class Awaiting:
    """The threads that read and stop for event loops. Stopping has its own: where all that read are busy, it must not wait for them."""

    def __init__(self) -> None:
        self._reading, self._stopping = Threads(READING, "mdsa-ask"), Threads(STOPPING, "mdsa-stop")

    async def done(self, events: Stoppable[Any], work: Callable[[], T]) -> T:
        """``work`` on ``events``, done in a thread; they are stopped when the task is cancelled meanwhile."""
        step = self._reading.submit(work, events.close)
        try:
            return await asyncio.wrap_future(step)
        except asyncio.CancelledError:
            await self._stopped(events, step)
            raise

    def as_they_come(self, events: Stoppable[T]) -> AsyncGenerator[T, None]:
        """Each of ``events``; they are stopped when the loop over them is left early, the task cancelled, or what this returns is closed, unread
        too."""
        return _Arriving(self._steps(events), lambda: self._stopped(events))

    async def _steps(self, events: Stoppable[T]) -> AsyncGenerator[T, None]:
        try:
            while (event := await self.done(events, lambda: next(events, None))) is not None:
                yield event
        finally:
            await self._stopped(events)

    async def closed(self, close: Callable[[], None]) -> None:
        """``close`` called, which may take long."""
        await asyncio.wrap_future(self._stopping.submit(close))

    async def _stopped(self, events: Stoppable[Any], *steps: Future[Any]) -> None:
        """Stop ``events``, which is certain from now on, and wait a moment for that and for ``steps``."""
        work: list[Future[Any]] = [self._stopping.submit(events.close), *steps]
        await asyncio.wait([asyncio.wrap_future(_end(one)) for one in work], timeout=PATIENCE_S)

    def close(self) -> None:
        """Let the threads end. Safe twice."""
        self._reading.close()
        self._stopping.close()


class _Arriving(AsyncGenerator[T, None]):
    """A generator, and what closes its source: one that has not begun ends without a word."""

    def __init__(self, steps: AsyncGenerator[T, None], stop: Callable[[], Awaitable[None]]) -> None:
        self._steps, self._stop = steps, stop
        self._begun = False

    async def asend(self, value: None) -> T:
        self._begun = True
        return await self._steps.asend(value)

    async def athrow(self, *thrown: Any) -> T:
        return await self._steps.athrow(*thrown)

    async def aclose(self) -> None:
        await self._steps.aclose()
        if not self._begun:
            await self._stop()


def _end(work: Future[Any]) -> Future[None]:
    """What is done when ``work`` is; what that came to is nobody's concern."""
    ended = Future[None]()
    work.add_done_callback(lambda _: ended.set_result(None))
    return ended
