"""The approximate vector index of a table: when it pays, and building it in the background; the word index of a large table is brought along.

LanceDB's IVF_RQ (RabitQ, Gao et al. 2024) with four bits a dimension. On 100,000 real passages of 312 dimensions it takes 4 seconds of processor
time to build and 16 MB of disk; twice the candidates, ordered again by their exact cosines, hold 99 % of the true first thirty for 3 ms of
processor time, where a look at all takes 60. IVF_FLAT needs eight times the disk and twice the time, IVF_SQ six times the time, and HNSW_SQ was
still building after 90 seconds of processor time.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from mdsa_local.errors import StorageError

logger = logging.getLogger(__name__)

# Smaller tables are held in memory once they are searched again, and a look at all of 10,000 rows takes 9 ms of processor time at most.
INDEX_FROM = 10_000
# Rows that came after the index are looked at one by one: vectors 1,000 in less than a millisecond, words in 25.
MOST_UNINDEXED = 2000
BITS = 4
ROWS_A_PARTITION = 4096
# With a quarter of 128 partitions 98.6 % of the first thirty are found; a table of 100,000 rows has 24.
LEAST_PROBES, PROBED = 20, 4
# LanceDB's quantised distances order only roughly: so many times the candidates are ordered again by their exact cosine.
OVERSAMPLING = 2
# A clock that is a little early must not make a thread run round.
LEAST_WAIT_S = 0.01

Work = Literal["nothing", "train", "extend", "drop"]
_NAME = re.compile(r"vector_of_(\d+)")


@dataclass(frozen=True, slots=True)
class State:
    """The vector indexes of a table: ``names``, how many rows the newest was trained on, and how many rows it, and the word index, does not have."""

    names: tuple[str, ...] = ()
    trained_on: int = 0
    n_unindexed: int = 0
    n_unworded: int = 0


def work(rows: int, state: State) -> Work:
    """What is to be done: nothing, train an index (where there is none, or the table is half or twice as large as then), extend it, drop it.

    To extend brings the word index along, of a table without the other too.
    """
    behind = max(state.n_unindexed, state.n_unworded) > MOST_UNINDEXED
    if state.names and rows < INDEX_FROM // 2:
        return "drop"
    if rows >= INDEX_FROM and (len(state.names) != 1 or not state.trained_on // 2 <= rows <= 2 * state.trained_on):
        return "train"
    return "extend" if behind else "nothing"


def partitions(rows: int) -> int:
    """Into how many partitions so many rows are divided."""
    return max(1, rows // ROWS_A_PARTITION)


def probes(rows: int) -> int:
    """How many partitions a search looks into. No less than for any table from which the index may be older, see :func:`work`."""
    return max(LEAST_PROBES, partitions(2 * rows) // PROBED)


def read(indices: Iterable[Any]) -> State:
    """The state from what lancedb's ``list_indices`` gives."""
    known = list(indices)
    found = {int(match[1]): index for index in known if (match := _NAME.fullmatch(index.name))}
    unworded = max((index.num_unindexed_rows or 0 for index in known if index.columns == ["searchable"]), default=0)
    if not found:
        return State(n_unworded=unworded)
    newest = found[max(found)]
    return State(tuple(index.name for index in found.values()), max(found), newest.num_unindexed_rows or 0, unworded)


async def pending(table: Any) -> Work:
    """What is to be done about the index of a table."""
    return work(await table.count_rows(), read(await table.list_indices()))


async def build(table: Any, keep: timedelta) -> Work:
    """Do what is to be done; versions stay for ``keep``. Every step is a commit of its own: a stop at any moment leaves a table that is whole."""
    from lancedb.index import IvfRq

    rows, state = await table.count_rows(), read(await table.list_indices())
    todo = work(rows, state)
    if todo == "train":
        name = f"vector_of_{rows}"
        # Vectors have unit length, so the dot product is the cosine.
        config = IvfRq(distance_type="dot", num_partitions=partitions(rows), num_bits=BITS)
        await table.create_index("vector", config=config, replace=True, name=name)
        state = replace(state, names=tuple(other for other in state.names if other != name))
    if todo == "extend" or (todo == "train" and state.n_unworded > MOST_UNINDEXED):
        await table.optimize(cleanup_older_than=keep)
    if todo in ("train", "drop"):
        for name in state.names:
            await table.drop_index(name)
    return todo


class Background:
    """Runs a piece of work beside everything else, once at a time. The program does not end before it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._called_off = False
        self._thread: threading.Thread | None = None
        self._due: float | None = None

    def start(self, name: str, task: Callable[[], object]) -> bool:
        """Begin ``task``, unless one is under way; whether it was begun. What the disk says is logged: everything works without the index, only
        slower."""
        with self._lock:
            begun = self._thread is None or not self._thread.is_alive()
            if begun:
                self._thread = threading.Thread(target=_logged, args=(name, task), name=f"mdsa-index-{name}")
                self._thread.start()
            return begun

    def later(self, name: str, task: Callable[[], object], delay_s: float) -> None:
        """Begin ``task`` when ``delay_s`` have gone by in which this was not called again. A program that ends before does so at once, without it."""

        def run() -> None:
            # Python waits for a thread that works, and not for one that waits. Once the program is ending it may refuse to start one.
            if self._is_due() and threading.main_thread().is_alive():
                with suppress(RuntimeError):
                    threading.Thread(target=_logged, args=(name, task), name=f"mdsa-tidy-{name}").start()

        with self._lock:
            if self._called_off:
                return
            waiting, self._due = self._due is not None, time.monotonic() + delay_s
            if not waiting:
                threading.Thread(target=run, name=f"mdsa-later-{name}", daemon=True).start()

    def _is_due(self) -> bool:
        """Return once what is to be done later is due: True, and nothing is due any more. False at once when it is called off."""
        with self._lock:
            while self._due is not None and (left := self._due - time.monotonic()) > 0:
                self._changed.wait(max(left, LEAST_WAIT_S))
            due, self._due = self._due is not None, None
            return due

    def call_off(self) -> None:
        """Do nothing later, neither what is to be done nor what :meth:`later` is yet told; what is under way goes on."""
        with self._lock:
            self._called_off, self._due = True, None
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when nothing is under way."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()


def _logged(name: str, task: Callable[[], object]) -> None:
    try:
        task()
    except StorageError as error:
        logger.warning("knowledge base %s is not tidied: %s", name, error)
