"""The vector index: when it is built, what it finds, and that nothing is lost whatever happens to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.knowledge import index, searching
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.copied import ROWS_A_SEARCH
from mdsa_local.knowledge.index import State, work
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.together import search_all

ROOT = Path(__file__).parents[2]
ROWS, WIDTH = 3000, 64


class Clustered:
    """Vectors of texts ``cluster.number``: near each other within a cluster."""

    fingerprint, width = "clustered", WIDTH

    def __init__(self) -> None:
        self.centres = np.random.default_rng(0).standard_normal((200, WIDTH), dtype=np.float32)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        names = [text.strip().split()[0].split(".") for text in texts]
        around = [np.random.default_rng(int(number)).standard_normal(WIDTH, dtype=np.float32) for _, number in names]
        vectors = np.stack([self.centres[int(cluster)] + 0.6 * noise for (cluster, _), noise in zip(names, around, strict=True)])
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def entries(numbers: range) -> list[Entry]:
    return [Entry(f"{n}", f"{n}", "0", (Chunk("", f"{n % 200}.{n} word{n % 7}", 0, 0),)) for n in numbers]


def fill(knowledge_base: KnowledgeBase, numbers: range) -> None:
    """Add documents in commits of the usual size."""
    for start in numbers[::500]:
        knowledge_base.add(entries(range(start, min(start + 500, numbers.stop))))


def base(folder: Path) -> KnowledgeBase:
    return KnowledgeBase(connect(folder), "many", Clustered())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index pays from a number of rows that a test can afford, and nothing is held in memory."""
    monkeypatch.setattr(index, "INDEX_FROM", 2500)
    monkeypatch.setattr(index, "MOST_UNINDEXED", 300)
    monkeypatch.setattr(searching, "HELD_ROWS", 0)


@pytest.mark.parametrize(
    ("rows", "state", "expected"),
    [
        (9_999, State(), "nothing"),
        (10_000, State(), "train"),
        (10_000, State(("a",), 10_000, 0), "nothing"),
        (20_000, State(("a",), 10_000, 0), "nothing"),
        (20_001, State(("a",), 10_000, 0), "train"),
        (49_999, State(("a",), 100_000, 0), "train"),
        (60_000, State(("a",), 50_000, 2_001), "extend"),
        (60_000, State(("a", "b"), 60_000, 0), "train"),
        (5_000, State(("a",), 10_000, 0), "nothing"),
        (4_999, State(("a",), 10_000, 0), "drop"),
        (60_000, State(("a",), 50_000, 0, 2_001), "extend"),
        (9_999, State((), 0, 0, 2_001), "extend"),
    ],
)
def test_what_is_due(rows: int, state: State, expected: str) -> None:
    assert work(rows, state) == expected


def test_partitions_and_probes_grow_with_the_table() -> None:
    assert [index.partitions(rows) for rows in (10_000, 100_000, 1_000_000)] == [2, 24, 244]
    # A table of 100,000 rows may have the index of one of 200,000, with 48 partitions; a quarter of them is less than the least.
    assert [index.probes(rows) for rows in (10_000, 100_000, 1_000_000)] == [20, 20, 122]


def recall(knowledge_base: KnowledgeBase, questions: list[str]) -> float:
    """The share of the true first thirty that the dense search finds."""
    table = knowledge_base.opened()
    at = knowledge_base.database.run(knowledge_base.snapshot(table))
    shares = []
    for vector in knowledge_base.embedder.encode(questions):
        exact = knowledge_base.database.run(
            table.query().nearest_to(vector).distance_type("dot").bypass_vector_index().limit(30).with_row_id().to_arrow()
        )
        found = knowledge_base.database.run(searching.candidates(at, vector, "nothing", 30, 30))
        shares.append(len({one.row for one in found} & set(exact["_rowid"].to_pylist())) / 30)
    return float(np.mean(shares))


def test_built_by_itself_finds_what_a_look_at_all_finds_and_follows_the_table(tmp_path: Path, small: None) -> None:
    knowledge_base = base(tmp_path)
    fill(knowledge_base, range(2000))
    knowledge_base.tidy()
    knowledge_base.settle()
    assert state(knowledge_base) == State()
    fill(knowledge_base, range(2000, ROWS))
    knowledge_base.tidy()
    # The search does not wait for the index.
    assert search_all([knowledge_base], Clustered().encode(["7.207"])[0], "word0", 1)[0].passage.id == "207#0"
    knowledge_base.settle()
    assert state(knowledge_base) == State((f"vector_of_{ROWS}",), ROWS, 0)
    questions = [f"{n % 200}.{n}" for n in range(100_000, 100_030)]
    assert recall(knowledge_base, questions) >= 0.98
    # So it does with exact cosines from this process's copy.
    for _ in range(2 + ROWS // ROWS_A_SEARCH):
        search_all([knowledge_base], Clustered().encode(["7.207"])[0], "word0", 1)
    knowledge_base.settle()
    assert knowledge_base._snapshot is not None and knowledge_base._snapshot.copy is not None
    assert recall(knowledge_base, questions) >= 0.98
    # Rows the index does not have yet are found, removed ones are not.
    knowledge_base.add(entries(range(ROWS, ROWS + 200)))
    knowledge_base.delete_all([f"{n}" for n in range(100)])
    assert state(knowledge_base).n_unindexed == 200
    for n in (ROWS, ROWS + 199):
        assert search_all([knowledge_base], Clustered().encode([f"{n % 200}.{n}"])[0], "nothing", 1)[0].passage.id == f"{n}#0"
    assert search_all([knowledge_base], Clustered().encode(["50.50"])[0], "nothing", 1)[0].passage.id != "50#0"
    assert recall(knowledge_base, questions) >= 0.98
    knowledge_base.add(entries(range(ROWS + 200, ROWS + 500)))
    knowledge_base.tidy()
    knowledge_base.settle()
    assert state(knowledge_base) == State((f"vector_of_{ROWS}",), ROWS, 0)
    assert recall(knowledge_base, questions) >= 0.98


def state(knowledge_base: KnowledgeBase) -> State:
    return index.read(knowledge_base.database.run(knowledge_base.opened().list_indices()))


def test_held_in_memory_finds_the_same_and_sees_every_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add(entries(range(300)))
    vector = Clustered().encode(["7.7"])[0]
    first, second, third = (search_all([knowledge_base], vector, "word3", 20) for _ in range(3))
    assert [hit.passage.id for hit in first] == [hit.passage.id for hit in second] == [hit.passage.id for hit in third]
    assert [hit.cosine for hit in first] == pytest.approx([hit.cosine for hit in third], abs=1e-6)
    assert first[0].passage == third[0].passage or first[0].passage.score == pytest.approx(third[0].passage.score)
    assert knowledge_base._snapshot is not None and knowledge_base._snapshot.held is not None
    # Another process' commits are seen too.
    other = base(tmp_path)
    other.delete("7")
    assert search_all([knowledge_base], vector, "word3", 20)[0].passage.id != "7#0"
    other.add(entries(range(7, 8)))
    assert search_all([knowledge_base], vector, "word3", 20)[0].passage.id == "7#0"
    # What does not fit is let go: the table searched longest ago.
    assert search_all([knowledge_base], vector, "word3", 20)
    monkeypatch.setattr(searching, "HELD_BYTES", knowledge_base._snapshot.held.size_bytes + 1000)
    more = KnowledgeBase(knowledge_base.database, "more", Clustered())
    more.add(entries(range(200)))
    for _ in range(2):
        assert search_all([more], vector, "word3", 20)[0].passage.id == "7#0"
    assert list(knowledge_base.database.memory._held) == ["more"]
    assert knowledge_base._snapshot.held is None
    # And is not read again for each search, only after a while.
    for _ in range(3):
        assert search_all([knowledge_base], vector, "word3", 20)[0].passage.id == "7#0"
    assert list(knowledge_base.database.memory._held) == ["more"]
    monkeypatch.setattr(searching, "HELD_BYTES", 10 * searching.HELD_BYTES)
    knowledge_base.database.memory._not_before.clear()
    assert search_all([knowledge_base], vector, "word3", 20)[0].passage.id == "7#0"
    assert sorted(knowledge_base.database.memory._held) == ["many", "more"]


BUILDER = """
import sys
from mdsa_local.knowledge import index
from tests.knowledge.test_index import base
from pathlib import Path
index.INDEX_FROM = 2500
knowledge_base = base(Path(sys.argv[1]))
print("ready", flush=True)
print(knowledge_base.index_vectors(), flush=True)
"""


def test_kill_minus_nine_while_it_is_built_leaves_a_table_that_works(tmp_path: Path, small: None) -> None:
    knowledge_base = base(tmp_path)
    fill(knowledge_base, range(ROWS))
    knowledge_base._compact()
    vector = Clustered().encode(["7.207"])[0]
    killed = 0
    for delay in (0.0, 0.05, 0.2):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        killed += "train" not in process.stdout.read()
        process.stdout.close()
        process.wait()
        again = base(tmp_path)
        assert sum(document.n_chunks for document in again.documents()) == ROWS
        assert search_all([again], vector, "word4", 1)[0].passage.id == "207#0"
    assert killed, "never hit the build"
    again = base(tmp_path)
    again.index_vectors()
    assert state(again) == State((f"vector_of_{ROWS}",), ROWS, 0)
    # Of two questions a single neighbour that is missed would be more than allowed.
    assert recall(again, [f"{n}.{100_000 + n}" for n in range(20)]) >= 0.98


def test_a_search_never_waits_for_the_index(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another writer holds the table, which is what building it means, searches go on."""
    knowledge_base = base(tmp_path)
    fill(knowledge_base, range(ROWS))
    with knowledge_base.database.writing("many"):
        knowledge_base._background.start("many", knowledge_base.index_vectors)
        for _ in range(3):
            assert search_all([knowledge_base], Clustered().encode(["7.207"])[0], "word4", 1)[0].passage.id == "207#0"
        assert state(knowledge_base) == State()
    knowledge_base.settle()
    assert state(knowledge_base).trained_on == ROWS


def test_later_is_once_and_after_the_last_call() -> None:
    background, begun = index.Background(), time.monotonic()
    done: list[float] = []
    for _ in range(5):
        background.later("many", lambda: done.append(time.monotonic() - begun), 0.4)
        time.sleep(0.1)
    assert done == []
    deadline = time.monotonic() + 30
    while not done and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert len(done) == 1 and done[0] >= 0.8
    background.later("many", lambda: done.append(time.monotonic()), 0.0)
    while len(done) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(done) == 2


def test_what_was_called_off_is_never_done_and_holds_nothing() -> None:
    background, done = index.Background(), list[str]()
    background.later("gone", lambda: done.append("due"), 0.3)
    [waiting] = [thread for thread in threading.enumerate() if thread.name == "mdsa-later-gone"]
    background.call_off()
    waiting.join(10)
    assert not waiting.is_alive()
    background.later("gone", lambda: done.append("after"), 0.0)
    time.sleep(0.5)
    assert done == []


def test_what_is_due_later_does_not_hold_up_the_end_of_the_program(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from mdsa_local.knowledge.index import Background
Background().later("many", lambda: Path(sys.argv[1]).touch(), 300)
print("end")
"""
    # Five minutes would be past the time limit.
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "done")], capture_output=True, text=True, cwd=ROOT, timeout=100, check=True)
    assert done.stdout == "end\n" and done.stderr == ""
    assert not (tmp_path / "done").exists()
