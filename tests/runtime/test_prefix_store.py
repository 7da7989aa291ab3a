"""States of static prefixes on disk: the same answers after a swap, whole files or none, within the cap."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.prefix_store import PrefixStore, fingerprint
from mdsa_local.runtime.stress import departs, told

SYSTEM = Message("system", "the rules of the house, one by one, and in no order. " * 6)
GREEDY = Generation(max_tokens=16)


@pytest.fixture
def open_(tiny: Path, tmp_path: Path) -> Callable[[], LlamaCppBackend]:
    return lambda: LlamaCppBackend(tiny, "tiny", threads=1, states=tmp_path / "states", states_bytes=10**8)


def test_after_a_swap_the_prefix_is_not_read_again_and_the_answer_is_the_same(open_: Callable[[], LlamaCppBackend], tiny: Path) -> None:
    cold = LlamaCppBackend(tiny, "tiny", threads=1)
    ask = [SYSTEM, Message("user", "and then?")]
    expected = told(cold, ask, 16)
    cold.close()
    first = open_()
    told(first, [SYSTEM, Message("user", "hello")], 4)
    first.close()
    second = open_()
    again = told(second, ask, 16)
    assert departs(expected, again) < 0.01
    stats = second.stats()
    assert stats.reused_tokens > 250
    assert stats.prompt_tokens < 20
    second.close()


def test_it_is_written_when_idle_not_only_on_unload(open_: Callable[[], LlamaCppBackend], tmp_path: Path) -> None:
    backend = open_()
    told(backend, [SYSTEM, Message("user", "hello")], 4)
    until = time.monotonic() + 5
    while not list((tmp_path / "states").glob("*.kv")) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(list((tmp_path / "states").glob("*.kv"))) == 1
    backend.close()


def test_a_damaged_state_is_evaluated_again(open_: Callable[[], LlamaCppBackend], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = open_()
    expected = told(backend, [SYSTEM, Message("user", "hello")], 8)
    backend.close()
    (file,) = (tmp_path / "states").glob("*.kv")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        backend = open_()
        assert told(backend, [SYSTEM, Message("user", "hello")], 8) == expected
    assert "damaged" in caplog.text
    assert backend.stats().reused_tokens == 0
    backend.close()
    backend = open_()
    told(backend, [SYSTEM, Message("user", "hello")], 8)
    assert backend.stats().reused_tokens > 250, "written anew"
    backend.close()


def test_a_state_is_for_contexts_of_its_size(open_: Callable[[], LlamaCppBackend], tiny: Path, tmp_path: Path) -> None:
    for backend in (open_(), LlamaCppBackend(tiny, "tiny", parallel=4, threads=1, states=tmp_path / "states", states_bytes=10**8)):
        told(backend, [SYSTEM, Message("user", "hello")], 4)
        assert backend.stats().reused_tokens == 0
        backend.close()
    assert len(list((tmp_path / "states").glob("*.kv"))) == 2


def test_another_file_under_the_same_name_is_another_model(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    raw = bytearray(tiny.read_bytes())
    copy.write_bytes(raw)
    before = fingerprint(copy)
    raw[-10] ^= 1
    copy.write_bytes(raw)
    assert fingerprint(copy) != before


def test_the_cap(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, "key", 2500)
    for number in range(4):
        store.save([number], bytes(1000))
        os.utime(store.path([number]), ns=(number, number))
        if number == 2:
            assert store.load([1]) == bytes(1000), "read last, so it stays"
    assert [store.load([number]) is not None for number in range(4)] == [False, True, False, True]
    store.save([9], bytes(3000))
    assert store.load([9]) is None, "larger than all of it"


def test_a_disk_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        PrefixStore(tmp_path / "file" / "states", "key", 1000).save([1], b"state")
    assert "cannot be kept" in caplog.text


KILLED = """
import sys, time
from pathlib import Path
from mdsa_local.runtime.prefix_store import PrefixStore
store = PrefixStore(Path(sys.argv[1]), "key", 10**10)
print("ready", flush=True)
for number in range(10**6):
    store.save([number], bytes([number % 251]) * 3_000_000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_somebody_else_left_in_the_folder_is_let_be(tmp_path: Path) -> None:
    strange = ["notes.part", "x-1.part", "-.part", f"{'0' * 40}-{'9' * 30}.part", f"{'0' * 40}-٣.part"]
    for name in (*strange, f"{'0' * 40}-999999999.part"):
        (tmp_path / name).touch()
    (tmp_path / f"{'1' * 40}-999999999.part").mkdir()
    PrefixStore(tmp_path, "key", 10**6).save([1, 2], b"state")
    assert {path.name for path in tmp_path.glob("*.part")} == {*strange, f"{'1' * 40}-999999999.part"}


def test_killed_while_writing_the_next_start_is_clean(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    until = time.monotonic() + 20
    while not list(tmp_path.glob("*.part")) and time.monotonic() < until:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = PrefixStore(tmp_path, "key", 10**10)
    assert not list(tmp_path.glob("*.part"))
    for number in range(len(list(tmp_path.glob("*.kv")))):
        assert store.load([number]) == bytes([number % 251]) * 3_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_while_loading_the_next_start_is_clean(tiny: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal, threading
from pathlib import Path
from mdsa_local.runtime.llamacpp import LlamaCppBackend
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
while True:
    LlamaCppBackend(Path({str(tiny)!r}), "tiny", threads=1, states=Path({str(tmp_path)!r}), states_bytes=10**8).close()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode != 0
    backend = LlamaCppBackend(tiny, "tiny", threads=1, states=tmp_path, states_bytes=10**8)
    *_, finished = backend.stream([SYSTEM, Message("user", "hello")], GREEDY, deadline_s=30)
    assert isinstance(finished, Finished)
    backend.close()
