"""A knowledge base looks after itself: files, faults, another encoder, other processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.knowledge.check import Problem
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.searching import Snapshot
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.upkeep import IN_A_BURST, MOST_SMALL_FILES, grown

from .toy_embedder import ToyEmbedder

ROOT = Path(__file__).parents[2]
# 100 in a long run: MDSA_TEST_KILLS=100.
KILLS = int(os.environ.get("MDSA_TEST_KILLS", "30"))


def test_many_single_additions_stay_small_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No search of another process is under way here.
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(seconds=1))
    rag = DualRAG(tmp_path, ToyEmbedder())
    for n in range(150):
        rag.add_global_documents([{"content": f"text number {n}", "metadata": {"id": f"{n}"}}])
    assert len(rag.list_documents()) == 150
    base = rag._knowledge_base(None)
    assert base._run(base.opened().stats())["fragment_stats"]["num_small_fragments"] <= MOST_SMALL_FILES * IN_A_BURST
    data = tmp_path / "global.lance" / "data"
    deadline = time.monotonic() + 30
    while len(list(data.iterdir())) > 2 and time.monotonic() < deadline:
        # What one merges the next removes, when nobody can be reading it any more.
        time.sleep(1.1)
        rag.optimize()
    assert len(list(data.iterdir())) <= 2


def size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_nothing_old_stays_after_the_last_of_many_single_additions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(seconds=2))
    texts = [{"content": f"text number {n} " + " ".join(f"word{n * m % 500}" for m in range(60)), "metadata": {"id": f"{n}"}} for n in range(120)]
    DualRAG(tmp_path / "once", ToyEmbedder(width=300)).add_global_documents(texts)
    rag = DualRAG(tmp_path / "many", ToyEmbedder(width=300))
    for text in texts:
        rag.add_global_documents([text])
    deadline = time.monotonic() + 60
    while size(tmp_path / "many") > 1.5 * size(tmp_path / "once") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert size(tmp_path / "many") <= 1.5 * size(tmp_path / "once")
    assert len(rag.list_documents()) == 120


def test_what_a_process_left_the_next_one_that_stays_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
rag = DualRAG(sys.argv[1], ToyEmbedder())
rag.add_global_documents([{"content": "text 0", "metadata": {"id": "0"}}])
# As where others read without a pause: nothing goes at once.
with rag._database.reading():
    for n in range(1, 100):
        rag.add_global_documents([{"content": f"text {n}", "metadata": {"id": str(n)}}])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, timeout=200, check=True)
    data = tmp_path / "global.lance" / "data"
    left = len(list(data.iterdir()))
    assert left > 32
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(milliseconds=100))
    rag = DualRAG(tmp_path, ToyEmbedder())
    assert rag.query("text 7")
    deadline = time.monotonic() + 60
    while len(list(data.iterdir())) > 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(list(data.iterdir())) <= 2
    assert len(rag.list_documents()) == 100


def test_single_additions_take_little_more_than_what_is_live(tmp_path: Path) -> None:
    """At every moment, not only at rest: with versions kept for 20 seconds this took nine times as much."""
    rag = DualRAG(tmp_path / "many", ToyEmbedder(width=300))
    texts = [{"content": f"text number {n} " + " ".join(f"word{n * m % 500}" for m in range(60)), "metadata": {"id": f"{n}"}} for n in range(400)]
    sizes = []
    for n, text in enumerate(texts, 1):
        rag.add_global_documents([text])
        if n % 50 == 0:
            sizes.append(size(tmp_path / "many") / n)
    once = DualRAG(tmp_path / "once", ToyEmbedder(width=300))
    once.add_global_documents(texts)
    live = size(tmp_path / "once") / len(texts)
    # Half a heap of small files weighs as much as a table of 100 passages.
    assert all(each <= 2 * live for each in sizes[2:]), (sizes, live)


def hear_merges(monkeypatch: pytest.MonkeyPatch, folder: Path, heard: Callable[[], None]) -> None:
    """Call ``heard`` before each merge in ``folder``: what earlier tests left elsewhere may be tidied meanwhile."""
    tidied = KnowledgeBase._tidied

    def hearing(base: KnowledgeBase, table: object) -> None:
        if base.database.folder == folder:
            heard()
        tidied(base, table)

    monkeypatch.setattr(KnowledgeBase, "_tidied", hearing)


def test_a_burst_of_additions_leaves_few_copies_where_somebody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every merge leaves the file before it for as long as it may be read: with a merge for every 32 additions, fast ones would leave tens."""
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.MOST_SMALL_FILES", 4)
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(hours=1))
    merges: list[int] = []
    hear_merges(monkeypatch, tmp_path, lambda: merges.append(1))
    rag = DualRAG(tmp_path, ToyEmbedder())
    rag._database.create("other", pa.schema([("text", pa.string())]))
    with connect(tmp_path).reading():
        for n in range(40):
            rag.add_global_documents([{"content": f"text number {n}", "metadata": {"id": f"{n}"}}])
        # The first makes the word index; then one for each 4 * IN_A_BURST.
        assert len(merges) == 2
        DualRAG(tmp_path, ToyEmbedder()).add_global_documents([{"content": "no burst for a process that has merged nothing"}])
        assert len(merges) == 3


def test_the_larger_a_table_the_more_has_to_come_before_all_of_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.ROWS_A_HEAP", 50)
    rag = DualRAG(tmp_path, ToyEmbedder())
    base = rag._knowledge_base(None)
    patience = []
    for n in range(6):
        rag.add_global_documents([{"content": f"text {n} {m}", "metadata": {"id": f"{n} {m}"}} for m in range(100)])
        patience.append(base._patience(base.opened()))
    assert patience == [2, 4, 6, 8, 8, 8]


READER = """
import sys
from mdsa_local.knowledge.dual_rag import DualRAG
from tests.knowledge.toy_embedder import ToyEmbedder
embedder = ToyEmbedder()
done = 0
while True:
    # A new one, which has nothing in memory, and the same one again.
    rag = DualRAG(sys.argv[1], embedder)
    for _ in range(5):
        found = rag.query("text number 3", top_k=3)
        assert len(found) == 3, found
        assert len(rag.list_documents()) >= 3
        assert sum(len(rows) for rows, _ in rag._knowledge_base(None).dump()[2]) >= 3
        done += 1
    print(done, flush=True)
"""


def test_readers_and_a_second_writer_are_unharmed_where_versions_go_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.MOST_SMALL_FILES", 3)
    removed: list[int] = []
    tidied = KnowledgeBase._tidied

    def counted(base: KnowledgeBase, table: object) -> None:
        tidied(base, table)
        removed.append(base.database.folder == tmp_path and not base._left_a_copy)

    monkeypatch.setattr(KnowledgeBase, "_tidied", counted)
    rag = DualRAG(tmp_path, ToyEmbedder())
    for n in range(3):
        rag.add_global_documents([{"content": f"text number {n}", "metadata": {"id": f"{n}"}}])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    reader, writer = (
        subprocess.Popen([sys.executable, "-c", *code], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        for code in ([READER, str(tmp_path)], [WRITER, str(tmp_path), "1000"])
    )
    with reader, writer:
        assert reader.stdout is not None and writer.stdout is not None
        try:
            assert reader.stdout.readline() and writer.stdout.readline()
            before, n = sum(removed), 3
            deadline = time.monotonic() + 8
            while time.monotonic() < deadline:
                rag.add_global_documents([{"content": f"text number {n}", "metadata": {"id": f"{n}"}}])
                n += 1
            assert reader.poll() is None and writer.poll() is None, "they ended by themselves"
        finally:
            reader.kill()
            writer.kill()
        assert reader.stdout.readline(), "the reader read meanwhile"
    assert sum(removed) > before, "versions were removed while the others were at work"
    assert {f"{m}" for m in range(n)} <= {document.document for document in rag.list_documents()}
    assert rag.check() == []


def test_while_much_is_added_few_merges_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.MOST_SMALL_FILES", 4)
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(hours=1))
    merges: list[int] = []
    hear_merges(monkeypatch, tmp_path, lambda: merges.append(n))
    base = DualRAG(tmp_path, ToyEmbedder(width=300))._knowledge_base(None)
    with base.busy():
        for n in range(40):
            base.add(Entry(f"{n}-{m}", f"{n}", "0", (Chunk("", f"text {n} {m}", 0, 0),)) for m in range(50))
            # As after half a minute without a commit, for a large file.
            base._tidied_at_rest()
    # What a merge copies is then at least half as much again as it was at the one before.
    assert 3 <= len(merges) <= 7
    assert all(later - earlier >= (earlier + 1) // 3 for earlier, later in pairwise(merges))
    base._tidied_at_rest()
    assert base._run(base.opened().stats())["fragment_stats"]["num_small_fragments"] <= 4 + 1
    assert base.count() == 2000


@pytest.mark.parametrize(
    ("rows", "largest", "merged", "expected"),
    [
        (100, 0, 0, True),
        (149, 100, 0, False),
        (151, 100, 0, True),
        (1_900_000, 1 << 20, 1_800_000, False),
        (2_800_000, 1 << 20, 1_800_000, True),
        # After most of it was removed.
        (50_000, 40_000, 600_000, False),
    ],
)
def test_when_enough_has_come(rows: int, largest: int, merged: int, expected: bool) -> None:
    assert grown(rows, largest, merged) is expected


def test_a_stop_before_the_word_index_is_made_anew_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.REMADE_FROM", 50)
    base = DualRAG(tmp_path, ToyEmbedder())._knowledge_base(None)

    def indices() -> list[int]:
        return [one.num_unindexed_rows for one in base._run(base.opened().list_indices()) if one.columns == ["searchable"]]

    def stop() -> None:
        assert indices() == [], "this is called before a word index is made"
        raise KeyboardInterrupt

    base.add(Entry(f"{n}", f"{n}", "0", (Chunk("", f"text {n}", 0, 0),)) for n in range(40))
    base.optimize()
    base.add(Entry(f"{n}", f"{n}", "0", (Chunk("", f"text {n}", 0, 0),)) for n in range(40, 70))
    assert indices() == [30]
    with monkeypatch.context() as patched:
        patched.setattr("mdsa_local.knowledge.upkeep.give_back_memory", stop)
        with pytest.raises(KeyboardInterrupt):
            base.optimize()
    assert indices() == [] and base.count() == 70
    base.tidy()
    assert indices() == [0]
    assert base.search(base.embedder.encode(["text 55"])[0], "55", 1)[0].id == "55#0"


def test_a_search_under_way_may_go_on_while_its_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where that version was made long ago: until the merge it was the latest."""
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(seconds=5))
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.AT_REST_S", 0.05)
    monkeypatch.setattr(KnowledgeBase, "_tidy_later", lambda base: None)
    base = DualRAG(tmp_path, ToyEmbedder())._knowledge_base(None)
    for n in range(6):
        base.add([Entry(f"{n}", f"{n}", "0", (Chunk("", f"text {n}", 0, 0),))])
        if n == 2:
            base._compact()
    time.sleep(5.2)
    [vector] = base.embedder.encode(["text 4"])
    at = base.database.run(base.snapshot(base.opened()))
    before = base.database.run(base.find(at, vector, "text 4", 5))
    with connect(tmp_path).reading():
        base._compact()
    assert len(base._run(at.live.list_versions())) > 1
    again = base.database.run(base.snapshot(base.opened()))
    assert again.version > at.version
    # As a search that had only begun: nothing of it is in lance's caches.
    fresh = DualRAG(tmp_path, ToyEmbedder())._knowledge_base(None)
    fresh.opened()
    old = fresh.database.run(fresh.database.pinned("global", at.version))
    late = Snapshot(old, old, at.version, at.count, at.indexed, at.worded, at.fits)
    found = fresh.database.run(fresh.find(late, vector, "text 4", 5))
    assert sorted(one.bm25 for one in found) == sorted(one.bm25 for one in before) and len(found) == 6
    # What nobody reads any more is gone later.
    time.sleep(5.2)
    base._compact()
    time.sleep(5.2)
    base._compact()
    with pytest.raises(StorageError):
        fresh.database.run(fresh.database.pinned("global", at.version), "global")


def test_another_encoder_takes_over_in_one_step_while_searches_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.store.PART_CHUNKS", 50)
    old = DualRAG(tmp_path, ToyEmbedder())
    old.add_global_documents([{"content": f"apples of kind {n}", "metadata": {"id": f"{n}", "lang": "en"}} for n in range(200)])
    new = DualRAG(tmp_path, ToyEmbedder("other", width=32))
    heard: list[tuple[int, int]] = []
    meanwhile: list[int] = []

    def hear(done: int, total: int) -> None:
        heard.append((done, total))
        meanwhile.append(len(old.query("apples", top_k=3)))

    base = new._knowledge_base(None)
    assert base.rebuild(hear)
    assert heard == [(50, 200), (100, 200), (150, 200), (200, 200)]
    assert meanwhile == [3] * 4, "the old encoder finds what it found until the switch"
    assert len(new.list_documents()) == 200
    assert new.query("apples of kind 7")[0]["metadata"]["lang"] == "en"
    with pytest.raises(ConfigError):
        old.query("apples")


def test_check_finds_and_repairs(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md", "c.md"):
        (docs / name).write_text(f"text of {name}")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    rag.add_paths([docs], "garden")
    rag.add_local_documents("garden", [{"content": "Given as text.", "metadata": {"source": "letter.md"}}])
    assert rag.check("garden") == []
    (docs / "b.md").unlink()
    base = rag._knowledge_base("garden")
    # What a crash between two parts of a large document leaves.
    for name in ("a.md", "d.md"):
        base._merge([(Entry(name, str(docs / name), "new", ()), 1, Chunk("t", "part one", 0, 8))])
    found = [Problem("interrupted", "a.md", "stored in part, 2 chunks"), Problem("missing", "b.md", f"its file is gone: {docs / 'b.md'}")]
    found += [Problem("interrupted", "d.md", "stored in part, 1 chunks")]
    assert rag.check("garden") == found
    assert [problem.repaired for problem in rag.check("garden", repair=True)] == ["read again", "removed", "removed"]
    assert rag.check("garden") == []
    assert [(entry.document, entry.n_chunks) for entry in rag.list_documents("garden") if "/" in entry.source] == [("a.md", 1), ("c.md", 1)]
    other = DualRAG(tmp_path / "kb", ToyEmbedder("other"))
    assert [(problem.kind, problem.repaired) for problem in other.check("garden", repair=True)] == [("fingerprint", "embedded again")]
    assert other.check("garden") == []
    for path in (tmp_path / "kb/garden.lance/data").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert [problem.kind for problem in DualRAG(tmp_path / "kb", ToyEmbedder("other")).check("garden", repair=True)] == ["damaged"]


def test_what_may_be_on_a_disk_that_is_not_there_is_not_removed(tmp_path: Path) -> None:
    def missing(rag: DualRAG) -> dict[str, str]:
        return {problem.document: problem.kept for problem in rag.check("garden")}

    disk, other = tmp_path / "disk", tmp_path / "other"
    for path in (disk / "a.md", disk / "sub" / "b.md", other / "a.md", other / "x.md", tmp_path / "lone" / "l.md", tmp_path / "named.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {path}")
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    for added in (disk, other, tmp_path / "lone", tmp_path / "named.md"):
        rag.add_paths([added], "garden")
    base = rag._knowledge_base("garden")
    base._merge([(Entry("c.md", str(disk / "c.md"), "new", ()), 1, Chunk("t", "part one", 0, 8))])
    # Where one file is left, what is gone was deleted.
    (disk / "a.md").unlink()
    (other / "x.md").unlink()
    assert missing(rag) == {"a.md": "", "c.md": "", "x.md": ""}
    (disk / "sub" / "b.md").unlink()
    (disk / "picture.png").write_text("no document")
    (tmp_path / "lone" / "l.md").unlink()
    (tmp_path / "named.md").unlink()
    kept = {"a.md": str(disk), "c.md": str(disk), "sub/b.md": str(disk), "l.md": str(tmp_path / "lone")}
    assert missing(rag) == kept | {"x.md": "", "named.md": ""}
    assert {problem.document for problem in rag.check("garden", repair=True) if problem.repaired} == {"x.md", "named.md"}
    assert missing(rag) == kept
    # The disk is there again.
    (disk / "sub" / "b.md").write_text(f"text of {disk / 'sub' / 'b.md'}")
    assert {problem.document for problem in rag.check("garden", repair=True) if problem.repaired} == {"a.md", "c.md"}
    assert [problem.repaired for problem in rag.check("garden", repair=True, even_all=True)] == ["removed"]
    assert rag.check("garden") == []


WRITER = """
import sys
from mdsa_local.errors import UnknownNameError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.lance import import_lancedb
from tests.knowledge.toy_embedder import ToyEmbedder
# As the command line does; all of it takes 2.5 seconds of a process that is killed after one.
import_lancedb(trim=True)
rag = DualRAG(sys.argv[1], ToyEmbedder())
n = int(sys.argv[2])
while True:
    print("try", n, flush=True)
    rag.add_global_documents([{"content": f"document {n} version {v} part", "metadata": {"id": f"doc{n % 40}"}} for v in (1,)])
    print("add", n, flush=True)
    if n % 5 == 4:
        print("drop", n - 2, flush=True)
        try:
            rag.remove(f"doc{(n - 2) % 40}")
        except UnknownNameError:
            # The writer before was killed before it was stored. Where it was confirmed, what reads this sees that it is lost.
            print("absent", n - 2, flush=True)
        else:
            print("dropped", n - 2, flush=True)
    if n % 7 == 6:
        rag.optimize()
    n += 1
"""


def test_kill_minus_nine_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    stored: dict[str, int] = {}
    at = 0
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(at)], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        assert process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda out=process.stdout, to=lines: to.extend(iter(out.readline, "")), daemon=True)
        reader.start()
        deadline = time.monotonic() + 60
        while len(lines) < 4 and time.monotonic() < deadline:
            assert process.poll() is None, "the writer ended by itself"
            time.sleep(0.02)
        time.sleep(source.uniform(0.0, 1.0))
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        events = [(line.split()[0], int(line.split()[1])) for line in lines if line.endswith("\n")]
        open_add = open_drop = None
        for event, n in events:
            at = max(at, n + 1) if event == "try" else at
            open_add = n if event == "try" else None if event == "add" else open_add
            open_drop = n if event == "drop" else None if event in ("dropped", "absent") else open_drop
            if event == "add":
                stored[f"doc{n % 40}"] = n
            elif event == "dropped":
                stored.pop(f"doc{n % 40}", None)
        rag = DualRAG(tmp_path, ToyEmbedder())
        dumped = rag._knowledge_base(None).dump()
        rows = [row for part, _ in dumped[2] for row in part] if dumped else []
        texts = {row["document"]: row["text"] for row in rows}
        assert len(texts) == len(rows), "each is there once"
        # What was neither confirmed nor refused may have happened or not, but whole.
        if open_drop is not None and f"doc{open_drop % 40}" not in texts:
            stored.pop(f"doc{open_drop % 40}", None)
        if open_add is not None and texts.get(f"doc{open_add % 40}") == f"document {open_add} version 1 part":
            stored[f"doc{open_add % 40}"] = open_add
        assert texts == {name: f"document {n} version 1 part" for name, n in stored.items()}
        assert {document.document: document.n_chunks for document in rag.list_documents()} == dict.fromkeys(texts, 1)
        assert rag.check() == []
        if stored:
            assert rag.query("document version part")
    assert at >= KILLS


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("at_rest", [False, True])
def test_the_text_of_what_was_removed_leaves_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_rest: bool, several: bool) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.KEEP_VERSIONS", timedelta(seconds=0.3))
    monkeypatch.setattr("mdsa_local.knowledge.upkeep.AT_REST_S", 0.1)
    knowledge_base = KnowledgeBase(connect(tmp_path), "finance", ToyEmbedder())
    knowledge_base.add([Entry(str(n), "", "h", (Chunk("", f"text {n}", 0, 6),)) for n in range(300)])
    knowledge_base.optimize()
    [before] = (tmp_path / "finance.lance/data").iterdir()
    for n in range(3) if several else ():
        knowledge_base.add([Entry(f"more{n}", "", "h", (Chunk("", f"text {n}", 0, 6),))])
    knowledge_base.delete("7")
    if at_rest:
        knowledge_base.tidy()
        end = time.monotonic() + 20
        while before.exists() and time.monotonic() < end:
            time.sleep(0.1)
    else:
        knowledge_base.optimize()
    knowledge_base.settle()
    assert not before.exists()
    assert len(list((tmp_path / "finance.lance/data").iterdir())) == 1
    table = knowledge_base.opened()
    assert knowledge_base._run(table.stats())["fragment_stats"]["lengths"]["max"] == knowledge_base._run(table.count_rows()) == 299 + 3 * several
    assert knowledge_base._run(table.list_indices())[0].num_indexed_rows == 299 + 3 * several
