from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from mdsa_local.errors import ConfigError, InputError, MDSAError, StorageError
from mdsa_local.knowledge import store
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.reading import Document
from mdsa_local.knowledge.store import Entry, KnowledgeBase

from .toy_embedder import ToyEmbedder


def entry(document: str, *texts: str, title: str = "Title", digest: str = "0") -> Entry:
    return Entry(document, f"/docs/{document}", digest, tuple(Chunk(title, text, 10 * n, 10 * n + 5) for n, text in enumerate(texts)))


def base(folder: Path, name: str = "finance", embedder: ToyEmbedder | None = None) -> KnowledgeBase:
    return KnowledgeBase(connect(folder), name, embedder or ToyEmbedder())


def found(knowledge_base: KnowledgeBase, text: str, k: int = 5) -> list[str]:
    [vector] = knowledge_base.embedder.encode([text])
    return [passage.id for passage in knowledge_base.search(vector, text, k)]


def test_a_passage_carries_where_it_comes_from(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry("cards.md", "Freeze the card.", "Order a card."), entry("loans.md", "Repay the loan.")])
    knowledge_base.optimize()
    [vector] = knowledge_base.embedder.encode(["Title\nOrder a card."])
    passage = knowledge_base.search(vector, "Order a card.", 3)[0]
    assert (passage.id, passage.source, passage.knowledge_base) == ("cards.md#1", "/docs/cards.md", "finance")
    assert (passage.title, passage.text, passage.start, passage.end) == ("Title", "Order a card.", 10, 15)
    assert passage.score == pytest.approx(1.0, abs=1e-4)


def test_scores_are_cosines_and_words_alone_can_find(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add(
        [entry(f"{n}.md", f"filler {n} " * 3) for n in range(80)] + [entry("rare.md", "The code is TR12345 among " + "other words " * 4)]
    )
    knowledge_base.optimize()
    question = "Which number is tr12345?"
    [vector] = knowledge_base.embedder.encode([question])
    nearest = max(knowledge_base.search(vector, question, 10), key=lambda passage: passage.score)
    assert nearest.id != "rare.md#0", "by vector others come first"
    passages = knowledge_base.search(vector, question, 10)
    (rare,) = (passage for passage in passages if passage.id == "rare.md#0")
    [own] = knowledge_base.embedder.encode([f"{rare.title}\n{rare.text}"])
    assert rare.score == pytest.approx(float(own @ vector), abs=1e-5)
    assert all(0.0 <= passage.score <= 1.0 for passage in passages)


def test_words_are_found_in_whatever_way_a_file_writes_their_letters(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    text = "The o\ufb03ce of the Cafe\u0301 Zu\u0308rich"
    knowledge_base.add([entry(f"{n}.md", f"filler {n} " * 3) for n in range(40)] + [entry("house.md", text)])
    knowledge_base.optimize()
    assert knowledge_base.matching("house.md", ["office", "cafe", "zurich", "rich"]) == ["office", "cafe", "zurich"]
    stored = knowledge_base.passage("house.md#0")
    assert stored is not None
    assert stored[0].text == text, "as the file has it"


def test_adding_again_replaces(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry("a.md", "one", "two", "three"), entry("b.md", "four")])
    knowledge_base.add([entry("a.md", "uno", digest="1")])
    assert knowledge_base.documents() == [Document("a.md", "/docs/a.md", "1", 1), Document("b.md", "/docs/b.md", "0", 1)]
    assert found(knowledge_base, "one two three uno") == ["a.md#0", "b.md#0"]
    knowledge_base.add([entry("a.md")])
    assert [document.document for document in knowledge_base.documents()] == ["b.md"]


@pytest.mark.parametrize("document", ["it's.md", "a\\'; DROP --.md", '"x" OR 1=1', "ü/漢.md", "') OR ('1'='1"])
def test_any_name_can_be_stored_and_deleted(tmp_path: Path, document: str) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry(document, "text"), entry("other.md", "text too")])
    knowledge_base.add([entry(document, "new text")])
    assert knowledge_base.delete(document)
    assert not knowledge_base.delete(document)
    assert [left.document for left in knowledge_base.documents()] == ["other.md"]


def test_no_question_is_a_syntax_error(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    source = random.Random(seed)
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry("a.md", "hello world")])
    knowledge_base.optimize()
    questions = ["", " ", "\x00", '"', "AND OR NOT", "title:(", "a AND", "+-*/\\^~[]{}!:", "the", "{}", '{"match": 1}', "ラン", "x" * 20_000]
    questions += ["".join(source.choices(string.printable + "é漢\u202e", k=30)) for _ in range(40)]
    for question in questions:
        assert found(knowledge_base, question) == ["a.md#0"]


def test_an_empty_knowledge_base_finds_nothing(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path / "none")
    assert found(knowledge_base, "hello") == []
    assert knowledge_base.documents() == []
    knowledge_base.optimize()
    knowledge_base.add([])
    assert not knowledge_base.delete("a.md")


def test_searchable_before_and_after_the_index(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry("a.md", "apples")])
    assert found(knowledge_base, "apples") == ["a.md#0"]
    knowledge_base.optimize()
    knowledge_base.add([entry("b.md", "bananas")])
    assert found(knowledge_base, "bananas")[0] == "b.md#0"


@pytest.mark.parametrize("other", [ToyEmbedder("other"), ToyEmbedder("other", width=32)])
def test_vectors_of_two_encoders_never_mix(tmp_path: Path, other: ToyEmbedder) -> None:
    old = base(tmp_path)
    old.add([entry("a.md", "apples"), entry("b.md", "bananas")])
    new = base(tmp_path, embedder=other)
    with pytest.raises(ConfigError, match="another encoder") as caught:
        found(new, "apples")
    assert "mdsa kb optimize" in caught.value.hint
    with pytest.raises(ConfigError):
        new.add([entry("c.md", "cherries")])
    assert len(new.documents()) == 2
    assert new.rebuild()
    assert not new.rebuild()
    assert found(new, "bananas")[0] == "b.md#0"
    # The handle opened before the rebuild notices.
    with pytest.raises(MDSAError):
        found(old, "apples")
    with pytest.raises(ConfigError):
        old.add([entry("c.md", "cherries")])


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "a b", "x" * 65, "a\n", "a.b", "-a"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        base(tmp_path, name)


def test_a_damaged_table_is_a_storage_error(tmp_path: Path) -> None:
    base(tmp_path).add([entry("a.md", "apples")])
    for path in (tmp_path / "finance.lance/data").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StorageError, match="finance") as caught:
        found(base(tmp_path), "apples")
    assert "finance.lance" in caught.value.hint


def test_a_crash_while_making_the_table_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "finance.lance").mkdir()
    knowledge_base = base(tmp_path)
    assert found(knowledge_base, "apples") == []
    knowledge_base.add([entry("a.md", "apples")])
    assert found(knowledge_base, "apples") == ["a.md#0"]


def test_many_small_adds_leave_few_files_after_optimize(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path)
    for n in range(12):
        knowledge_base.add([entry(f"{n}.md", f"text {n}")])
    knowledge_base.optimize()
    other = base(tmp_path)
    other.delete("3.md")
    knowledge_base.optimize()
    assert len(knowledge_base.documents()) == 11


def test_only_what_replaces_something_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge takes time and memory by all that is stored."""
    merged: list[str] = []
    merging = store._merging

    def counted(table: object, delete: str) -> object:
        merged.append(delete)
        return merging(table, delete)

    monkeypatch.setattr(store, "_merging", counted)
    knowledge_base = base(tmp_path)
    knowledge_base.add([entry("a.md", "apples"), entry("it's.md", "pears")])
    knowledge_base.add([entry("b.md", "plums")])
    knowledge_base.add_large(Entry("c.md", "/docs/c.md", "0", ()), [Chunk("", f"part {n}", n, n + 1) for n in range(5000)])
    assert merged == []
    knowledge_base.add([entry("d.md", "quinces"), entry("it's.md", "cherries")])
    assert len(merged) == 1
    # The same once more, as after a stop before the last commit.
    knowledge_base.add_large(Entry("c.md", "/docs/c.md", "0", ()), [Chunk("", f"part {n}", n, n + 1) for n in range(5000)])
    knowledge_base.add_large(Entry("c.md", "/docs/c.md", "1", ()), [Chunk("", f"piece {n}", n, n + 1) for n in range(3000)])
    assert len(merged) > 2
    counts = {document.document: (document.hash, document.n_chunks) for document in knowledge_base.documents()}
    assert counts == {"a.md": ("0", 1), "b.md": ("0", 1), "c.md": ("1", 3000), "d.md": ("0", 1), "it's.md": ("0", 1)}
    assert found(knowledge_base, "cherries")[0] == "it's.md#0"
