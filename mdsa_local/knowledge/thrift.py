"""Merging and indexing a large table in little memory: what lance holds at once, and what glibc keeps of it."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mdsa_local.machine import give_back_memory

# What lance reads ahead when it merges files is 32 of them and 2 GB by default: with less a merge of 600,000 rows, a gigabyte, takes 435 MB of memory
# in place of 529, and no longer. What it collects of a vector index before it writes a part is 128 MB by default, and twice that to sort it: with
# less an index of 600,000 rows takes 60 MB less, and no longer.
MODEST = {
    "LANCE_DEFAULT_FRAGMENT_READAHEAD": "2",
    "LANCE_DEFAULT_IO_BUFFER_SIZE": str(32 << 20),
    "LANCE_SHUFFLE_BATCH_BYTES": str(16 << 20),
}

# mallopt's numbers for these settings, in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 1 << 20
# What glibc comes to by itself after the first large blocks were freed.
_USUAL_MMAP_BYTES, _USUAL_TRIM_BYTES = 32 << 20, 64 << 20


class WhileAtWork:
    """Called, a context: from where the first thread enters it until the last has left, what glibc keeps is set to be little, by ``limit``."""

    def __init__(self, limit: Callable[[int, int], None]) -> None:
        self._limit = limit
        self._lock, self._at_work = threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._at_work += 1
            if self._at_work == 1:
                self._limit(LARGE_BYTES, LARGE_BYTES)
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                if self._at_work == 0:
                    self._limit(_USUAL_MMAP_BYTES, _USUAL_TRIM_BYTES)
            give_back_memory()


def _set(mmap_bytes: int, trim_bytes: int) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
        mallopt(_M_TRIM_THRESHOLD, trim_bytes)


little_memory = WhileAtWork(_set)
"""While this lasts, in whatever thread, blocks of :data:`LARGE_BYTES` and more go back to the system as soon as they are freed.

By itself glibc keeps them, in a heap for each thread, and small blocks that stay lie scattered among them: a process that indexes 600,000 vectors
takes 632 MB then, and 467 MB so, for an eighth more processor time.
"""
