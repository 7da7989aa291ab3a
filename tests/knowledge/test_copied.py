"""Rows read from this process's own copy are those of the table, as long as it stays as it is; else the table itself is asked."""

from __future__ import annotations

import logging
import random
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mdsa_local.knowledge import copied, reading, searching, wording
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.copied import Copy
from mdsa_local.knowledge.fusion import WORDS_WEIGHT, Hit
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.searching import Found
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.knowledge.together import rank_all, search_all
from tests.knowledge.toy_embedder import ToyEmbedder

ROWS = 900


def entries(numbers: range) -> list[Entry]:
    return [Entry(f"{n}", f"docs/{n}.md", "0", (Chunk(f"Title {n % 9}", f"word{n} kind{n % 7} é☃", n, n + 5),), {"n": n}) for n in numbers]


def base(folder: Path, name: str = "large") -> KnowledgeBase:
    return KnowledgeBase(connect(folder), name, ToyEmbedder(width=1024))


def filled(folder: Path) -> KnowledgeBase:
    """Several files, some of whose rows are gone."""
    knowledge_base = base(folder)
    for start in range(0, ROWS, 300):
        knowledge_base.add(entries(range(start, start + 300)))
    knowledge_base.delete_all([f"{n}" for n in range(0, ROWS, 50)])
    return knowledge_base


def search(knowledge_base: KnowledgeBase, text: str, k: int = 10) -> list[Hit]:
    return search_all([knowledge_base], ToyEmbedder(width=1024).encode([text])[0], text, k)


def copy_of(knowledge_base: KnowledgeBase) -> Copy | None:
    assert knowledge_base._snapshot is not None
    return knowledge_base._snapshot.copy


def until_copied(knowledge_base: KnowledgeBase) -> Copy:
    for _ in range(6):
        search(knowledge_base, "kind3")
    knowledge_base.settle()
    # One of what was there before may have been on its way out.
    search(knowledge_base, "kind3")
    knowledge_base.settle()
    copy = copy_of(knowledge_base)
    assert copy is not None
    return copy


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held in memory, and a copy pays after the fourth further search."""
    monkeypatch.setattr(searching, "HELD_ROWS", 0)
    monkeypatch.setattr(reading, "ROWS_A_SEARCH", 225)
    monkeypatch.setattr(copied, "PART", 100)


def test_finds_the_same_from_the_search_on_that_makes_it_pay(tmp_path: Path) -> None:
    knowledge_base = filled(tmp_path)
    files = sorted(tmp_path.iterdir())
    questions = [f"word{n} kind{n % 5} Title" for n in range(1, 200, 9)]
    before = [search(knowledge_base, questions[0]) for _ in range(4)][-1:]
    knowledge_base.settle()
    assert copy_of(knowledge_base) is None
    search(knowledge_base, questions[0])
    knowledge_base.settle()
    assert copy_of(knowledge_base) is not None
    before += [search(base(tmp_path), question) for question in questions[1:]]
    for question, hits in zip(questions, before, strict=True):
        again = search(knowledge_base, question)
        # Of passages that fit as well as each other any may come first.
        assert [hit.cosine + WORDS_WEIGHT * hit.words for hit in again] == pytest.approx(
            [hit.cosine + WORDS_WEIGHT * hit.words for hit in hits], abs=1e-5
        )
        vector = ToyEmbedder(width=1024).encode([question])[0]
        for hit in again:
            [chunk], n = entries(range(hit.metadata["n"], hit.metadata["n"] + 1))[0].chunks, hit.metadata["n"]
            shown = (f"{n}#0", f"docs/{n}.md", chunk.title, chunk.text, chunk.start, chunk.end)
            passage = hit.passage
            assert (passage.id, passage.source, passage.title, passage.text, passage.start, passage.end) == shown
            assert hit.cosine == pytest.approx(float(ToyEmbedder(width=1024).encode([f"{chunk.title}\n{chunk.text}"])[0] @ vector), abs=1e-5)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed by Linux alone")
def test_what_is_removed_or_replaced_is_in_no_copy_any_more(tmp_path: Path) -> None:
    def copies() -> int:
        return sum(str(tmp_path) in target and "(deleted)" in target for target in map(_target, Path("/proc/self/fd").iterdir()))

    knowledge_base = filled(tmp_path)
    for change in (lambda: knowledge_base.delete_all(["7"]), lambda: knowledge_base.add(entries(range(8, 9)))):
        until_copied(knowledge_base)
        assert copies() > 2
        change()
        assert copies() == 0


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def test_rows_and_cosines_are_those_of_the_table_in_any_order_and_thread(tmp_path: Path) -> None:
    knowledge_base = filled(tmp_path)
    copy = until_copied(knowledge_base)
    table = knowledge_base.opened()
    rows = knowledge_base.database.run(table.query().select([*reading.COLUMNS, "vector"]).with_row_id().to_arrow()).to_pylist()
    stored = {row["_rowid"]: {name: row[name] for name in (*reading.COLUMNS, "_rowid")} for row in rows}
    vectors = {row["_rowid"]: np.array(row["vector"], np.float32) for row in rows}
    assert len(stored) == ROWS - ROWS // 50
    question = ToyEmbedder(width=1024).encode(["word7 kind3"])[0]

    def look(seed: int) -> None:
        drawn = random.Random(seed).sample(sorted(stored), 90)
        assert list(copy.fetch(drawn).items()) == [(row, stored[row]) for row in drawn]
        # Sums of a thousand products in float32, each processor adds them up in its own order: off by some 1e-6.
        assert copy.cosines(drawn, question) == pytest.approx({row: float(vectors[row] @ question) for row in drawn}, abs=5e-6)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(look, range(40)))
    assert copy.fetch(sorted(stored)) == stored
    assert not copy.fetch([]) and not copy.cosines([], question)


def test_what_another_process_writes_is_seen_and_nothing_is_kept_of_what_it_removes(tmp_path: Path) -> None:
    knowledge_base, other = filled(tmp_path), base(tmp_path)
    copy = until_copied(knowledge_base)
    stored, mapped = copy._stored._file, weakref.ref(copy._matrix)
    assert search(knowledge_base, "word7")[0].passage.id == "7#0"
    other.delete("7")
    other.add(entries(range(ROWS, ROWS + 1)))
    assert search(knowledge_base, "word7")[0].passage.id != "7#0"
    assert search(knowledge_base, f"word{ROWS}")[0].passage.id == f"{ROWS}#0"
    assert copy_of(knowledge_base) is None
    del copy
    assert stored.closed and mapped() is None
    # Merging gives the rows other ids.
    other.optimize()
    for n in (8, ROWS - 1, ROWS):
        assert search(knowledge_base, f"word{n}")[0].passage.text.startswith(f"word{n} ")
    until_copied(knowledge_base)
    for n in (8, ROWS - 1, ROWS):
        assert search(knowledge_base, f"word{n}")[0].passage.text.startswith(f"word{n} ")


def test_searches_and_writes_go_on_while_it_is_made(tmp_path: Path) -> None:
    knowledge_base, other = filled(tmp_path), base(tmp_path)
    for n in range(ROWS, ROWS + 8):
        for _ in range(6):
            search(knowledge_base, "kind3")
        # A copy of what was there before is being made or is there.
        other.add(entries(range(n, n + 1)))
        assert search(knowledge_base, f"word{n}")[0].passage.id == f"{n}#0"
    other.optimize()
    until_copied(knowledge_base)
    assert search(knowledge_base, f"word{ROWS + 7}")[0].passage.id == f"{ROWS + 7}#0"


def test_not_more_than_the_limit_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knowledge_base = filled(tmp_path)
    monkeypatch.setattr(copied, "MOST_BYTES", 20_000)
    for _ in range(8):
        assert search(knowledge_base, "word7")[0].passage.id == "7#0"
    knowledge_base.settle()
    assert copy_of(knowledge_base) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_disk_that_takes_no_more_is_said_and_searches_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    knowledge_base = filled(tmp_path)
    for _ in range(4):
        search(knowledge_base, "word7")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with caplog.at_level(logging.WARNING):
            search(knowledge_base, "word7")
            knowledge_base.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in caplog.text
    assert copy_of(knowledge_base) is None
    for _ in range(8):
        assert search(knowledge_base, "word7")[0].passage.id == "7#0"
    assert caplog.text.count("searches of knowledge base") == 1


def test_two_tables_are_copied_apart(tmp_path: Path) -> None:
    first = filled(tmp_path)
    second = KnowledgeBase(first.database, "other", ToyEmbedder(width=1024))
    second.add([Entry("secret", "secret.md", "0", tuple(Chunk("", f"secret{n} kind{n % 7}", 0, 0) for n in range(ROWS)))])
    for _ in range(6):
        search_all([first, second], ToyEmbedder(width=1024).encode(["kind3"])[0], "kind3", 10)
    for one, other, text in ((first, second, "secret5 kind5"), (second, first, "word6 kind6 Title")):
        for knowledge_base in (one, other):
            knowledge_base.settle()
        assert copy_of(one) is not None
        assert {hit.passage.knowledge_base for hit in search(one, text, 30)} == {one.name}


def test_what_a_copy_finds_is_what_lancedb_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random texts of few words in several scripts, many of them the same, some removed: as many candidates as there are, and as few as usual."""
    monkeypatch.setattr(wording, "_AT_ONCE", 50)
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    words = [*"apple pear plum Running naïve Straße 東京 e-mail 3.14 the of".split(), *(f"w{n}" for n in range(40))]
    texts = [" ".join(source.choices(words, [1 / (n + 1) for n in range(len(words))], k=source.randint(0, 12))) for _ in range(ROWS)]
    knowledge_base = base(tmp_path)
    for start in range(0, ROWS, 300):
        knowledge_base.add(Entry(f"{n}", f"{n}.md", "0", (Chunk("T", texts[n], n, n),)) for n in range(start, start + 300))
    removed = source.sample(range(ROWS), 60)
    knowledge_base.delete_all([f"{n}" for n in removed])
    # The word index is made when what was removed is gone.
    knowledge_base.optimize()
    left = [n for n in range(ROWS) if n not in removed]
    until_copied(knowledge_base)
    table, at_hand = knowledge_base.opened(), knowledge_base.at_hand(knowledge_base.opened())
    assert at_hand is not None
    ids = {row["_rowid"]: row["id"] for row in knowledge_base._run(table.query().select(["id"]).with_row_id().to_arrow()).to_pylist()}
    assert sorted(ids.values()) == sorted(f"{n}#0" for n in left)
    asked = base(tmp_path)
    monkeypatch.setattr(asked, "_copy_if_worth", lambda at: None)
    for question in [*source.sample(texts, 40), "the of", "", "nothing of that", "ＴＯＫＹＯ 東京"]:
        vector = ToyEmbedder(width=1024).encode([question])[0]
        for k in (5, ROWS):
            at, theirs = asked.database.run(asked.search_now(asked.opened(), vector, question, k))
            assert at.at_hand is None
            mine = knowledge_base.find_at_hand(*at_hand, vector, question, k)
            same_found(mine, theirs, everything=k == ROWS)
        for k in (1, 7):
            condition = "source LIKE '%1.md'"
            filtered = [rank_all([one], vector, question, k, condition, every=False) for one in (knowledge_base, asked)]
            assert [entry.hit.cosine for entry in filtered[0]] == pytest.approx([entry.hit.cosine for entry in filtered[1]], abs=1e-5)


def same_found(mine: list[Found], theirs: list[Found], *, everything: bool) -> None:
    """The same rows with the same scores; where only the best are asked for, of those that fit as well as the last any may be there."""
    scores = [{one.row: (one.cosine, one.bm25) for one in some} for some in (mine, theirs)]
    if everything:
        assert scores[0].keys() == scores[1].keys()
    both = scores[0].keys() & scores[1].keys()
    for row in both:
        (cosine, bm25), (other_cosine, other_bm25) = scores[0][row], scores[1][row]
        assert cosine == pytest.approx(other_cosine, abs=1e-5)
        if everything or (bm25 and other_bm25):
            assert bm25 == pytest.approx(other_bm25, rel=1e-5)
    for number in (0, 1):
        ranked = [sorted((values[number] for values in some.values()), reverse=True) for some in scores]
        best = [values[: reading.CANDIDATES] for values in ranked]
        assert best[0] == pytest.approx(best[1], rel=1e-5, abs=1e-5)
