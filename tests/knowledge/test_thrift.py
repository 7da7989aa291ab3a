"""Heavy work takes little memory and leaves none of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdsa_local.knowledge import store, thrift, upkeep
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.store import EMBED_BATCH, Entry

from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]

# Blocks of 4 MB, as lance has them, freed while small ones that came between them stay: how many MB are kept of 80, while it lasts and after.
KEPT = """
import ctypes, sys
from contextlib import nullcontext
from mdsa_local.knowledge.thrift import little_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def block(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    return at

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

# From the first large block that is freed glibc keeps those of up to that size.
libc.free(block(20 << 20))
before = resident()
with little_memory() if sys.argv[1] == "little" else nullcontext():
    blocks = [(block(4 << 20), block(100_000)) for _ in range(20)]
    for large, _ in blocks:
        libc.free(large)
    print(resident() - before)
again = [(block(4 << 20), block(100_000)) for _ in range(20)]
for large, _ in again:
    libc.free(large)
print(resident() - before)
"""


def kept(how: str) -> list[int]:
    command = [sys.executable, "-c", KEPT, how]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_large_blocks_go_back_while_it_lasts_and_stay_for_the_next_time_after_it() -> None:
    by_itself, little = kept("usual"), kept("little")
    assert by_itself[0] > 70, "glibc keeps them, or this tests nothing"
    assert little[0] < 10
    assert little[1] > 70, "afterwards it is as without it: who searches does not ask the system for each block"


def test_it_lasts_until_the_last_of_those_who_are_at_work() -> None:
    settings: list[int] = []
    little_memory = thrift.WhileAtWork(lambda mmap_bytes, trim_bytes: settings.append(mmap_bytes))
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with little_memory():
            inside.set()
            leave.wait(10)

    with pytest.raises(KeyError), little_memory():
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(10)
        raise KeyError
    assert settings == [thrift.LARGE_BYTES]
    leave.set()
    thread.join()
    assert settings == [thrift.LARGE_BYTES, 32 << 20]


def test_large_commits_and_upkeep_take_little_memory_and_single_additions_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, frugal = threading.current_thread(), 0

    @contextmanager
    def counted() -> Iterator[None]:
        nonlocal frugal
        # What knowledge bases tidy in the background is their affair.
        frugal += threading.current_thread() is here
        with thrift.little_memory():
            yield

    for module in (store, upkeep):
        monkeypatch.setattr(module, "little_memory", counted)
    base = DualRAG(tmp_path, ToyEmbedder())._knowledge_base(None)
    base.add([Entry("one", "one", "0", (Chunk("", "text", 0, 0),))])
    single = frugal
    base.add(Entry(f"{n}", f"{n}", "0", (Chunk("", f"text {n}", 0, 0),)) for n in range(EMBED_BATCH))
    large = frugal
    base.optimize()
    assert (single, large - single) == (0, 1) and frugal > large
