"""Who reads is known to who removes, across threads and processes, and neither waits for the other for long."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.locks import Readers

from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]
READS = """
import sys
from pathlib import Path
from mdsa_local.knowledge.locks import Readers
with Readers(Path(sys.argv[1])).reading():
    print("reads", flush=True)
    sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared locks: there versions stay for 20 seconds")


def alone(folder: Path) -> bool:
    with Readers(folder).none(20) as certain:
        return certain


def test_a_reader_of_another_process_is_known_until_it_is_done_or_killed(tmp_path: Path) -> None:
    Readers(tmp_path).begin()
    assert alone(tmp_path)
    command = [sys.executable, "-c", READS, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for kill in (False, True):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as reader:
            assert reader.stdin is not None and reader.stdout is not None
            assert reader.stdout.readline() == "reads\n"
            assert not alone(tmp_path)
            if kill:
                reader.kill()
                reader.wait()
            else:
                reader.stdin.write("\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == "done\n"
            assert alone(tmp_path)


def test_the_last_of_the_threads_that_read_counts(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    readers.begin()
    with readers.reading():
        with readers.reading():
            assert not alone(tmp_path)
        assert not alone(tmp_path)
    assert alone(tmp_path)


def test_who_wants_to_read_waits_until_what_is_old_is_removed(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    readers.begin()
    order: list[str] = []

    def read() -> None:
        with readers.reading():
            order.append("read")

    with Readers(tmp_path).none(20) as certain:
        assert certain
        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.1)
        order.append("removed")
    thread.join(10)
    assert order == ["removed", "read"]


def test_readers_who_take_turns_without_a_pause_let_who_removes_in(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    readers.begin()
    end = time.monotonic() + 10
    reads = 0

    def read() -> None:
        nonlocal reads
        while time.monotonic() < end:
            with readers.reading(), readers.reading():
                time.sleep(0.002)
            reads += 1

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        before, found = reads, [alone(tmp_path) for _ in range(20)]
        assert sum(found) >= 15, found
        assert reads > before, "they go on"
    finally:
        end = 0.0
        for thread in threads:
            thread.join()


def test_a_read_may_end_in_another_thread(tmp_path: Path) -> None:
    readers = Readers(tmp_path)
    readers.begin()
    reading = readers.reading()
    reading.__enter__()
    thread = threading.Thread(target=reading.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert alone(tmp_path)


def test_nothing_is_certain_as_long_as_somebody_may_read_who_began_before_there_was_a_file(tmp_path: Path) -> None:
    assert not alone(tmp_path)
    assert not alone(tmp_path), "the file is new"
    os.utime(tmp_path / "readers.lock", (time.time() - 30, time.time() - 30))
    assert alone(tmp_path)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with Readers(tmp_path).reading(), Readers(tmp_path / "absent").reading():
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_table_of_a_folder_makes_it_certain_from_the_beginning(tmp_path: Path) -> None:
    def certain() -> bool:
        with connect(tmp_path).unread(timedelta(seconds=20)) as found:
            return found

    DualRAG(tmp_path, ToyEmbedder()).add_global_documents([{"content": "the first"}])
    assert certain()
    # As in a folder that an earlier release made: who reads the first table may not have locked anything.
    (tmp_path / "readers.lock").unlink()
    DualRAG(tmp_path, ToyEmbedder()).add_local_documents("finance", [{"content": "the second"}])
    assert not certain()


def test_a_dump_is_a_read_until_its_last_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.store.PART_CHUNKS", 2)
    base = DualRAG(tmp_path, ToyEmbedder())._knowledge_base(None)
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag.add_global_documents([{"content": f"text {n}", "metadata": {"id": f"{n}"}} for n in range(6)])
    dumped = base.dump()
    assert dumped is not None
    next(dumped[2])
    assert not alone(tmp_path)
    rag.add_global_documents([{"content": "later", "metadata": {"id": f"{n}"}} for n in range(6)])
    rag.optimize()
    assert sum(len(rows) for rows, _ in dumped[2]) == 4
    assert alone(tmp_path)


def test_elsewhere_nothing_is_certain() -> None:
    with connect("s3://bucket/prefix").unread(timedelta(0)) as certain:
        assert not certain
