"""How many threads an evaluation gets: as many as there are cores that nobody else keeps busy.

llama.cpp's threads wait for each other some hundred times a token, so all are as slow as the one that has to wait for a core. Two processes with
two threads each on two cores write 0 to 8 tokens a second each (0.5B parameters, Q4_0), with one thread each 25; one alone 24 with one thread, 50
with two.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from mdsa_local.machine import processors
from mdsa_local.runtime.hardware import HardwareDetector

logger = logging.getLogger(__name__)
# Between two looks at what the machine does. The system counts in steps of 10 ms, so a much shorter one would see little.
WINDOW_S = 0.25
# Whether a load still lasts is seen at once from how many threads run, over 10 ms: those of OpenMP spin for 5 more when they are done.
GLANCES, GLANCE_S = 10, 0.001
# What keeps a core busy, of the fields that psutil has on this system. Linux counts the time of guests in ``user`` as well.
BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq", "steal")


_told: set[int] = set()


@dataclass(frozen=True, slots=True)
class Use:
    """Seconds that went by, that the cores were busy in all, and that they were busy for this process; each since some moment of its own."""

    clock_s: float
    busy_s: float
    own_s: float


def share(most: int, cores: int, others: float, sharers: int) -> int:
    """Threads for one of ``sharers`` that evaluate at once in this process, 1 to ``most``, where ``others`` keep that many of ``cores`` busy."""
    free = int(cores - others + 0.5)
    return max(1, min(most, free // max(sharers, 1)))


def others_busy(before: Use, after: Use) -> float:
    """Cores that other processes kept busy between two looks."""
    return max(0.0, (after.busy_s - before.busy_s) - (after.own_s - before.own_s)) / max(after.clock_s - before.clock_s, 1e-9)


def within_cores(threads: int) -> int:
    """``threads``, but no more than there are logical processors to use, which is told once: each would wait for a core hundreds of times a token."""
    count = HardwareDetector().cpu_count()
    if threads > count and threads not in _told:
        _told.add(threads)
        logger.warning("threads is %d, but this process may use %d processors: %d are used. 0 means one per core.", threads, count, count)
    return min(threads, count)


def look(numbers: list[int]) -> Use:
    """What the machine has done so far on the processors of these numbers; nothing where the system does not tell, so that nobody else is seen
    either."""
    try:
        every = psutil.cpu_times(percpu=True)
    except (OSError, psutil.Error):
        every = []
    busy = sum(getattr(every[at], field, 0.0) for at in numbers if at < len(every) for field in BUSY_FIELDS)
    return Use(time.monotonic(), busy, time.process_time())


def running() -> int | None:
    """Threads of all processes that run or wait for a core at this moment, the caller's included; None where the system does not tell."""
    try:
        # As in "0.20 0.18 0.12 3/80 11206".
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return None


class Cores:
    """The cores of this machine, shared by all that evaluate in this process. Safe from any thread."""

    def __init__(self, cores: int | None = None, look_: Callable[[], Use] | None = None, running_: Callable[[], int | None] = running) -> None:
        """``cores``: how many logical processors there are to share; ``look_`` and ``running_``: how to see what they do. Of this machine when not
        given."""
        own = processors()
        self._count = cores or len(own)
        self._look = look_ or (lambda: look(own))
        self._lock = threading.Lock()
        self._running, self._last = running_, self._look()
        self._others = 0.0
        # Whether what was seen lies in the time when nothing was evaluated here, and may be over.
        self._past = False
        self._sharers = 0

    def enter(self) -> None:
        """One more evaluates from now on."""
        with self._lock:
            if not self._sharers:
                self._past = self._renew()
            self._sharers += 1

    def leave(self) -> None:
        """One fewer does."""
        with self._lock:
            self._sharers -= 1

    def threads(self, most: int) -> int:
        """Threads for the next evaluation of one that has entered, at most ``most``. Looks at the machine at most every :data:`WINDOW_S`."""
        if most < 2:
            return 1
        with self._lock:
            if not self._renew() and self._past:
                # Only now: what the first evaluation needs was got ready meanwhile.
                self._others = self._still(self._others)
            self._past = False
            return share(most, self._count, self._others, self._sharers)

    def _still(self, others: float) -> float:
        """Of so many that were busy, those that still are."""
        for _ in range(GLANCES):
            if others < 0.5 or (now := self._running()) is None:
                break
            others = min(others, now - 1.0)
            if others >= 0.5:
                time.sleep(GLANCE_S)
        return others

    def _renew(self) -> bool:
        """Look at the machine, unless that was done a moment ago."""
        if time.monotonic() - self._last.clock_s < WINDOW_S:
            return False
        now = self._look()
        self._others, self._last = others_busy(self._last, now), now
        return True


_lock = threading.Lock()
_cores: Cores | None = None


def machine() -> Cores:
    """The one that all engines of this process share."""
    global _cores
    with _lock:
        if _cores is None:
            _cores = Cores()
        return _cores
