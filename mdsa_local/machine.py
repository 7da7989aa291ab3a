"""What this process may use of the machine, and what it gives back: for whoever asks it early, nothing heavy is imported."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# Parameters of glibc's mallopt, and what they are set to: larger blocks are mapped each by itself, so that the system has them back as soon as they
# are freed; of free memory at the end of a thread's heap no more stays.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
MAPPED_BYTES, LEFT_BYTES = 4 << 20, 1 << 20


def processors() -> list[int]:
    """Numbers of the logical processors that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    import psutil

    # Windows and FreeBSD tell; macOS has no such limit.
    allowed: list[int] = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else []
    return allowed or list(range(os.cpu_count() or 1))


def available_cores() -> int:
    """How many logical processors this process may use."""
    return len(processors())


def give_back_memory() -> None:
    """Have the C library return free memory to the system, after work that took much.

    glibc keeps it for the next time: 160 MB after a merge of 600,000 rows; of two models of 60 and 74 MB loaded in turns, 80 MB.
    """
    if trim := _allocator("malloc_trim"):
        trim(0)


def free_at_once() -> None:
    """Have the C library return large blocks to the system as soon as they are freed, from now on and in the whole process.

    By itself glibc learns to keep them: once a block of 20 MB was freed, 40 MB may stay in the heap of each thread that frees memory, and
    ``malloc_trim`` does not reach the end of a heap but the first. Six models in turns, memory for two or three, took up to 50 MB more than their
    budget. What the environment says of it (``MALLOC_MMAP_THRESHOLD_``, ``GLIBC_TUNABLES`` and the like) stands.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if not told and (option := _allocator("mallopt")):
        option(M_MMAP_THRESHOLD, MAPPED_BYTES)
        option(M_TRIM_THRESHOLD, LEFT_BYTES)


def _allocator(name: str) -> Any:
    """A function of glibc's allocator; None where there is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
