"""What a process may use of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mdsa_local.machine import available_cores, processors


def test_each_processor_is_named_once() -> None:
    assert len(set(processors())) == len(processors()) == available_cores() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="os.sched_setaffinity is Linux's")
def test_only_those_that_the_process_may_use_count() -> None:
    script = "import os; from mdsa_local.machine import processors; os.sched_setaffinity(0, processors()[-1:]); print(processors())"
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.strip() == str(processors()[-1:])


# Threads that each take and free blocks of 20 MB, one after the other, some of them twice at a time; what stays is told in MB.
CHURN = """
import ctypes, threading
from pathlib import Path
import mdsa_local.machine as machine
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
{begin}
first, turn = resident(), threading.Lock()
over = threading.Barrier(6)
def churn():
    with turn:
        for _ in range(3):
            blocks = [libc.malloc(20_000_000), libc.malloc(18_000_000)]
            for block in blocks:
                ctypes.memset(block, 1, 18_000_000)
            for block in blocks[::-1]:
                libc.free(block)
    over.wait()
threads = [threading.Thread(target=churn) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
machine.give_back_memory()
print(resident() - first)
"""


@pytest.mark.skipif(not (sys.platform == "linux" and platform.libc_ver()[0] == "glibc"), reason="it is glibc that keeps memory")
@pytest.mark.parametrize(
    ("begin", "environment", "kept"),
    [
        ("machine.free_at_once()", {}, False),
        ("", {}, True),
        ("machine.free_at_once()", {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "30000000"}, True),
    ],
    ids=["set", "by itself", "told by the environment"],
)
def test_what_threads_free_goes_back_to_the_system(begin: str, environment: dict[str, str], kept: bool) -> None:
    script = CHURN.replace("{begin}", begin)
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env={**os.environ, **environment}).stdout
    assert (float(told) > 15) == kept
