from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.check import check
from mdsa_local.knowledge.chunking import Chunk
from mdsa_local.knowledge.ingest import Report, Step, ingest
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.show import around
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.settings import shipped

from .toy_embedder import ToyEmbedder


def base(folder: Path) -> KnowledgeBase:
    return KnowledgeBase(connect(folder), "finance", ToyEmbedder())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    write(tmp_path / "docs/cards.md", "# Cards\nFreeze a card in the app.")
    write(tmp_path / "docs/loans/early.markdown", "# Loans\nRepay a loan early.")
    write(tmp_path / "docs/notes.txt", "# no heading\nplain words")
    write(tmp_path / "docs/.git/config.md", "hidden")
    return tmp_path / "docs"


def test_folders_are_read_with_all_below(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    heard: list[Step] = []
    report = ingest(knowledge_base, [docs], heard.append)
    assert report == Report(added=("cards.md", "notes.txt", "loans/early.markdown"))
    assert [(found.document, found.source) for found in knowledge_base.documents()] == [
        (name, str(docs.resolve() / name)) for name in ("cards.md", "loans/early.markdown", "notes.txt")
    ]
    # All three are stored together, and count when they are.
    assert [(step.files_done, step.bytes_done, step.chunks) for step in heard[:3]] == [(0, 0, 0)] * 3
    size = sum(path.stat().st_size for path in (docs / "cards.md", docs / "notes.txt", docs / "loans/early.markdown"))
    assert heard[-1] == Step(3, 3, size, size, 3, "")
    [vector] = knowledge_base.embedder.encode(["x"])
    assert {passage.title for passage in knowledge_base.search(vector, "x", 9)} == {"Cards", "Loans", "notes"}


def test_offsets_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "docs/a.md"
    path.parent.mkdir()
    path.write_bytes("\ufeff# Überschrift\r\n\r\nZwölf Äpfel.\r\nMehr.\r\n\r\n## Zwei\r\nÖl.\r\n".encode())
    knowledge_base = base(tmp_path / "kb")
    ingest(knowledge_base, [path])
    [vector] = knowledge_base.embedder.encode(["x"])
    passages = knowledge_base.search(vector, "x", 9)
    assert {passage.title for passage in passages} == {"Überschrift", "Überschrift > Zwei"}
    for passage in passages:
        assert path.read_bytes()[passage.start : passage.end].decode().replace("\r\n", "\n") == passage.text


def test_names_of_files_as_macos_writes_them_are_found_as_they_are_typed(tmp_path: Path) -> None:
    typed, written = (normalize(form, "Müller résumé") for form in ("NFC", "NFD"))
    assert typed != written
    write(tmp_path / f"docs/{written}.md", "Plain words.")
    knowledge_base = base(tmp_path / "kb")
    assert ingest(knowledge_base, [tmp_path / "docs"]).added == (f"{typed}.md",)
    [vector] = knowledge_base.embedder.encode(["x"])
    [passage] = knowledge_base.search(vector, "x", 9)
    assert (passage.title, passage.source.endswith(f"{written}.md")) == (typed, True)
    assert around(passage, knowledge_base.documents()[0].hash).state == "unchanged"
    assert ingest(knowledge_base, [tmp_path / "docs"]) == Report(unchanged=(f"{typed}.md",))
    write(tmp_path / f"docs/{written}.md", "Other words.")
    assert [problem.kind for problem in check(knowledge_base)] == ["changed"]
    assert ingest(knowledge_base, [tmp_path / "docs"]) == Report(changed=(f"{typed}.md",))


def test_only_what_changed_is_embedded_again(tmp_path: Path, docs: Path) -> None:
    embedder = ToyEmbedder()
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", embedder)
    ingest(knowledge_base, [docs])
    embedder.encoded.clear()
    assert ingest(knowledge_base, [docs]) == Report(unchanged=("cards.md", "notes.txt", "loans/early.markdown"))
    assert embedder.encoded == []
    write(docs / "cards.md", "# Cards\nOrder a new card.")
    write(docs / "new.md", "# New\nBrand new.")
    report = ingest(knowledge_base, [docs])
    assert (report.added, report.changed) == (("new.md",), ("cards.md",))
    assert sorted(embedder.encoded) == ["Cards\nOrder a new card.", "New\nBrand new."]


def test_what_a_later_loader_reads_otherwise_is_read_again(tmp_path: Path, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(docs / "page.html", "<p>A page of its own.")
    knowledge_base = base(tmp_path / "kb")
    with monkeypatch.context() as before:
        before.setattr("mdsa_local.knowledge.loaders.REVISIONS", {})
        ingest(knowledge_base, [docs])
    [vector] = knowledge_base.embedder.encode(["x"])
    [found] = [passage for passage in knowledge_base.search(vector, "x", 9) if passage.source.endswith("page.html")]
    stored = knowledge_base.passage(found.id)
    assert stored and around(*stored).state == "unchanged"
    report = ingest(knowledge_base, [docs])
    assert (report.changed, len(report.unchanged)) == (("page.html",), 3)
    assert len(ingest(knowledge_base, [docs]).unchanged) == 4
    assert [found.n_chunks for found in knowledge_base.documents()] == [1, 1, 1, 1]


def test_what_is_gone_is_removed_only_when_asked_and_only_below_the_folder(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    elsewhere = write(tmp_path / "docs2/keep.md", "keep this")
    ingest(knowledge_base, [docs, elsewhere])
    elsewhere.unlink()
    (docs / "cards.md").unlink()
    write(docs / "notes.txt", "  \n")
    assert ingest(knowledge_base, [docs]).removed == ()
    report = ingest(knowledge_base, [docs], follow_deletes=True)
    assert report.removed == ("cards.md", "notes.txt")
    assert [found.document for found in knowledge_base.documents()] == ["keep.md", "loans/early.markdown"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_files_that_cannot_be_used_are_reported(tmp_path: Path, docs: Path) -> None:
    (docs / "torn.md").write_bytes("café".encode()[:-1] + "é".encode())
    write(docs / "empty.md", "\n")
    write(docs / "headings.md", "# Only a heading")
    write(docs / "paper.odt", "PK")
    write(docs / "Makefile", "all:")
    (docs / "broken.md").symlink_to(docs / "nowhere.md")
    os.mkfifo(docs / "pipe.txt")
    (docs / "~$notes.docx").write_bytes(b"\x05Tom")
    (docs / "nothing.pdf").touch()
    write(tmp_path / "private/diary.md", "secret")
    (docs / "diary.md").symlink_to(tmp_path / "private/diary.md")
    (docs / "above").symlink_to(tmp_path / "private")
    (docs / "again.md").symlink_to(docs / "cards.md")
    (docs / "round.md").symlink_to(docs / "round.md")
    report = ingest(base(tmp_path / "kb"), [docs, tmp_path / "missing.md"])
    assert report.added == ("again.md", "cards.md", "notes.txt", "loans/early.markdown")
    refused = ["missing.md", "pipe.txt", "torn.md"]
    assert sorted(Path(path).name for path, _ in report.failed if path not in report.passed_over) == refused
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert reasons.pop("paper.odt").startswith("not a supported type: .odt")
    assert reasons.pop("Makefile").startswith("not a supported type: Makefile")
    assert reasons == {
        "torn.md": "not UTF-8 text: byte 3 begins no character",
        "empty.md": "has no text",
        "headings.md": "has no text",
        "broken.md": "does not exist",
        "round.md": "does not exist",
        "~$notes.docx": "a lock file of an office program",
        "nothing.pdf": "has no text",
        "diary.md": "leads out of the folder, so it has to be named itself",
        "above": "is a link to a folder, so it has to be named itself",
        "pipe.txt": "not a file",
        "missing.md": "does not exist",
    }


def test_what_the_system_does_not_let_us_see_is_told_and_the_rest_is_done(tmp_path: Path, docs: Path) -> None:
    # No name can be so long.
    unseen = tmp_path / ("x" * 300)
    report = ingest(base(tmp_path / "kb"), [unseen, docs], follow_deletes=True)
    assert len(report.added) == 3
    [(path, reason)] = report.failed
    assert path == str(unseen) and reason.startswith("cannot be read: ") and report.passed_over == ()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_what_ships_with_the_product_may_be_installed_as_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cache/cards.md", "How to freeze a card.")
    knowledge = tmp_path / "domains/finance/knowledge"
    knowledge.mkdir(parents=True)
    (knowledge / "cards.md").symlink_to(tmp_path / "cache/cards.md")
    assert ingest(base(tmp_path / "kb"), [knowledge]).added == ()
    monkeypatch.setattr("mdsa_local.knowledge.ingest.shipped", lambda name: tmp_path / name)
    assert ingest(base(tmp_path / "kb"), [knowledge]).added == ("cards.md",)


def test_where_all_would_go_nothing_does(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    other = write(tmp_path / "other/keep.md", "keep this").parent
    write(other / "gone.md", "goes")
    ingest(knowledge_base, [docs, other])
    shutil.rmtree(docs)
    (other / "gone.md").unlink()
    docs.mkdir()
    report = ingest(knowledge_base, [docs, other], follow_deletes=True)
    kept = ("cards.md", "loans/early.markdown", "notes.txt")
    assert (report.removed, report.kept) == (("gone.md",), ((str(docs), kept),))
    assert len(knowledge_base.documents()) == 4
    # What is new there is not what was.
    write(docs / "new.md", "new")
    assert ingest(knowledge_base, [docs], follow_deletes=True).kept == ((str(docs), kept),)
    assert ingest(knowledge_base, [docs], follow_deletes=True).removed == kept
    assert [found.document for found in knowledge_base.documents()] == ["keep.md", "new.md"]
    (docs / "new.md").write_text(" ")
    assert ingest(knowledge_base, [docs], follow_deletes=True).removed == ("new.md",)


def test_all_go_where_that_is_meant(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    ingest(knowledge_base, [docs])
    shutil.rmtree(docs)
    docs.mkdir()
    report = ingest(knowledge_base, [docs], follow_deletes=True, even_all=True)
    assert (len(report.removed), report.kept) == (3, ())


def test_what_cannot_be_read_any_more_stays_and_that_is_told(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    ingest(knowledge_base, [docs])
    (docs / "cards.md").write_bytes(b"\0")
    (docs / "notes.txt").write_text(" ")
    (docs / "loans/early.markdown").write_text("# Loans\nNo loans.")
    (docs / "new.md").write_bytes(b"\0")
    found = {problem.document: problem for problem in check(knowledge_base)}
    kinds = {"cards.md": "unreadable", "notes.txt": "unreadable", "loans/early.markdown": "changed"}
    assert {name: problem.kind for name, problem in found.items()} == kinds
    assert "cannot be used any more, the version from before stays: is binary" in found["cards.md"].what
    assert "no text any more" in found["notes.txt"].what
    assert found["loans/early.markdown"].what == f"its file has changed since: {docs}/loans/early.markdown"
    reasons = {Path(path).name: reason for path, reason in ingest(knowledge_base, [docs]).failed}
    assert {name for name, reason in reasons.items() if reason.endswith("; the version from before stays")} == {"cards.md", "notes.txt"}
    assert reasons["new.md"].startswith("is binary")
    assert len(knowledge_base.documents()) == 3
    assert [problem.document for problem in check(knowledge_base)] == ["cards.md", "notes.txt"]
    # Emptied files are followed, and then nothing stays.
    assert ingest(knowledge_base, [docs], follow_deletes=True).removed == ("notes.txt",)
    write(docs / "cards.md", "# Cards\nAnother text.")
    assert [problem.repaired for problem in check(knowledge_base, repair=True)] == ["read again"]
    assert check(knowledge_base) == []


def test_what_is_being_stored_when_a_run_is_broken_off_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.ingest.COMMIT_CHUNKS", 4)
    for n in range(10):
        write(tmp_path / f"docs/{n}.md", f"text {n}")
    knowledge_base = base(tmp_path / "kb")
    store, heard = knowledge_base.add, list[Step]()

    def slowly(entries: Iterable[Entry], *, of_files: bool = False) -> dict[str, str]:
        time.sleep(0.3)
        return store(entries, of_files=of_files)

    monkeypatch.setattr(knowledge_base, "add", slowly)

    def stop(step: Step) -> None:
        heard.append(step)
        if len(heard) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(knowledge_base, [tmp_path / "docs"], stop)
    assert heard[-1].chunks == len(knowledge_base.documents()) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_what_is_named_counts_and_so_does_a_link_that_is(tmp_path: Path, docs: Path) -> None:
    secret = write(tmp_path / "private/diary.md", "a secret")
    (docs / "diary.md").symlink_to(secret)
    (docs / "nothing.md").touch()
    report = ingest(base(tmp_path / "kb"), [docs, docs / "diary.md", docs / "nothing.md"])
    assert "diary.md" in report.added
    assert [(Path(path).name, path in report.passed_over) for path, _ in report.failed] == [("diary.md", True), ("nothing.md", False)]


def test_equal_names_in_two_folders_do_not_collide(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    for n, folder in enumerate(["a/docs", "b/docs", "c"]):
        write(tmp_path / folder / "readme.md", f"text {n}")
    folders = [tmp_path / "a/docs", tmp_path / "b/docs", tmp_path / "c"]
    assert ingest(knowledge_base, folders).added == ("readme.md", "docs/readme.md", "c/readme.md")
    # The same files by another root keep their ids, and a file given twice is one document.
    assert sorted(ingest(knowledge_base, [tmp_path, folders[0]]).unchanged) == ["c/readme.md", "docs/readme.md", "readme.md"]
    assert len(knowledge_base.documents()) == 3


def test_shipped_files_have_a_short_source(tmp_path: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    ingest(knowledge_base, [shipped("domains") / "finance" / "knowledge"])
    known = {found.document: found.source for found in knowledge_base.documents()}
    assert known["dispute-a-charge.md"] == "domains/finance/knowledge/dispute-a-charge.md"
    [vector] = knowledge_base.embedder.encode(["How do I dispute a card charge?"])
    passages = knowledge_base.search(vector, "How do I dispute a card charge?", 3)
    assert "dispute-a-charge.md#0" in {passage.id for passage in passages}
    assert ingest(knowledge_base, [shipped("domains") / "finance" / "knowledge"], follow_deletes=True).removed == ()


class _Crashing(KnowledgeBase):
    left = 1

    def add(self, entries: Iterable[Entry], *, of_files: bool = False) -> dict[str, str]:
        if self.left == 0:
            raise StorageError("disk full")
        self.left -= 1
        return super().add(entries, of_files=of_files)


def test_a_run_after_a_crash_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.ingest.COMMIT_CHUNKS", 4)
    for n in range(10):
        write(tmp_path / f"docs/{n}.md", f"text {n}")
    crashing = _Crashing(connect(tmp_path / "kb"), "finance", ToyEmbedder())
    with pytest.raises(StorageError):
        ingest(crashing, [tmp_path / "docs"])
    knowledge_base = base(tmp_path / "kb")
    report = ingest(knowledge_base, [tmp_path / "docs"])
    assert (len(report.unchanged), len(report.added)) == (4, 6)
    assert len(knowledge_base.documents()) == 10


def test_a_large_document_is_stored_in_parts_and_goes_on_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.ingest.COMMIT_CHUNKS", 8)
    monkeypatch.setattr("mdsa_local.knowledge.store.PART_CHUNKS", 8)
    monkeypatch.setattr("mdsa_local.knowledge.store.EMBED_BATCH", 4)
    path = write(tmp_path / "docs/book.md", "".join(f"# Chapter {n}\nwords of chapter {n}\n" for n in range(40)))
    embedder = ToyEmbedder()
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", embedder)
    heard: list[Step] = []

    def stop(step: Step) -> None:
        heard.append(step)
        if step.chunks >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(knowledge_base, [path], stop)
    assert [(step.chunks, step.embedded) for step in heard] == [(0, 0), (0, 4), (8, 0), (8, 4), (16, 0), (16, 4), (24, 0)]
    assert [step.bytes_done for step in heard] == sorted({step.bytes_done for step in heard}), "each step is further on"
    assert 0 < heard[-1].bytes_done < heard[-1].bytes == path.stat().st_size
    [interrupted] = knowledge_base.documents()
    assert (interrupted.hash, interrupted.n_chunks) == ("", 23)
    embedder.encoded.clear()
    assert ingest(knowledge_base, [path]).changed == ("book.md",)
    assert len(embedder.encoded) == 17, "what was stored is not embedded again"
    assert [found.n_chunks for found in knowledge_base.documents()] == [40]
    # A shorter version leaves nothing of the longer one, and a version that cannot be read leaves all.
    write(path, "".join(f"# Chapter {n}\nother words {n}\n" for n in range(20)))
    assert ingest(knowledge_base, [path]).changed == ("book.md",)
    path.write_bytes(path.read_bytes() + b"\0")
    [(_, reason)] = ingest(knowledge_base, [path]).failed
    assert reason.startswith("is binary")
    [book] = knowledge_base.documents()
    assert (book.n_chunks, book.hash != "") == (20, True)
    assert {passage.text.split()[0] for passage in knowledge_base.search(embedder.encode(["words"])[0], "words", 40)} == {"other"}


def test_two_that_add_files_of_one_name_at_once_keep_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second takes its list of what is stored before the first has stored anything."""
    monkeypatch.setattr("mdsa_local.knowledge.ingest.COMMIT_CHUNKS", 50)
    ours, theirs = tmp_path / "x", tmp_path / "y"
    for folder in (ours, theirs):
        write(folder / "README.md", f"# Read me\nAbout {folder.name}.")
        write(folder / "large.md", "\n\n".join(f"# Part {n}\n{folder.name}{n}" for n in range(120)))
    first, second = base(tmp_path / "kb"), base(tmp_path / "kb")
    listed = second.documents()
    report = ingest(first, [ours])
    monkeypatch.setattr(second, "documents", lambda: listed)
    other = ingest(second, [theirs])
    assert report.added == ("README.md", "large.md")
    assert other.added == (str(theirs / "README.md"), str(theirs / "large.md"))
    stored = {found.source: (found.document, found.n_chunks) for found in first.documents()}
    assert stored == {
        str(ours / "README.md"): ("README.md", 1),
        str(ours / "large.md"): ("large.md", 120),
        str(theirs / "README.md"): (str(theirs / "README.md"), 1),
        str(theirs / "large.md"): (str(theirs / "large.md"), 120),
    }
    assert sorted(ingest(base(tmp_path / "kb"), [ours, theirs]).unchanged) == sorted([*report.added, *other.added])


def test_what_has_its_file_is_not_followed_as_deleted(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    hidden = [write(docs / ".hidden.md", "hidden"), write(docs / ".obs/x.md", "hidden too"), write(docs / "t.lance/y.md", "in a table's folder")]
    ingest(knowledge_base, [docs, *hidden])
    knowledge_base.add([Entry("scan", f"{docs}/scan.pdf#page=3", "h", (Chunk("", "given as text", 0, 13),))])
    (docs / "notes.txt").unlink()
    hidden[1].unlink()
    assert ingest(knowledge_base, [docs], follow_deletes=True).removed == ("notes.txt", "x.md")
    assert {found.document for found in knowledge_base.documents()} == {"cards.md", "loans/early.markdown", ".hidden.md", "y.md", "scan"}


def test_a_text_that_was_given_with_the_path_of_a_file_stays(tmp_path: Path, docs: Path) -> None:
    knowledge_base = base(tmp_path / "kb")
    texts = {"ch1": docs / "cards.md", "ch2": docs / "cards.md", "scanned": docs / "scan.pdf"}
    knowledge_base.add(Entry(name, path.as_posix(), "h", (Chunk("", "given as text", 0, 13),)) for name, path in texts.items())
    names = ("cards.md", "notes.txt", "loans/early.markdown")
    assert ingest(knowledge_base, [docs]) == Report(added=names)
    assert ingest(knowledge_base, [docs]) == Report(unchanged=names)
    stored = knowledge_base.passage("ch2#0")
    assert stored and around(*stored).state == "text"
    (docs / "cards.md").unlink()
    assert [(problem.document, problem.repaired) for problem in check(knowledge_base, repair=True)] == [("cards.md", "removed")]
    (docs / "notes.txt").unlink()
    assert ingest(knowledge_base, [docs], follow_deletes=True).removed == ("notes.txt",)
    shutil.rmtree(docs)
    assert [problem.document for problem in check(knowledge_base, repair=True, even_all=True)] == ["loans/early.markdown"]
    assert [found.document for found in knowledge_base.documents()] == [*texts]


def test_a_folder_in_the_place_of_a_file_is_none(tmp_path: Path, docs: Path) -> None:
    knowledge_base, other = base(tmp_path / "kb"), base(tmp_path / "kb2")
    for each in (knowledge_base, other):
        ingest(each, [docs])
    (docs / "cards.md").unlink()
    write(docs / "cards.md/c.md", "gamma")
    report = ingest(knowledge_base, [docs], follow_deletes=True)
    assert (report.added, report.removed) == (("cards.md/c.md",), ("cards.md",))
    assert [(problem.kind, problem.document, problem.repaired) for problem in check(other, repair=True)] == [("missing", "cards.md", "removed")]
    assert check(other) == []


def test_two_that_add_one_large_file_under_one_name_keep_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.ingest.COMMIT_CHUNKS", 50)
    text = "\n\n".join(f"# Part {n}\nWords {n}" for n in range(120))
    for name in "xy":
        write(tmp_path / name / "large.md", text)
    first, second = base(tmp_path / "kb"), base(tmp_path / "kb")
    monkeypatch.setattr(second, "documents", lambda: [])
    ingest(first, [tmp_path / "x"])
    ingest(second, [tmp_path / "y"])
    assert {(found.document, found.n_chunks, bool(found.hash)) for found in first.documents()} == {
        ("large.md", 120, True), (str(tmp_path / "y/large.md"), 120, True)
    }  # fmt: skip
