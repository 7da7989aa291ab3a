from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import UnknownNameError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.settings import shipped
from tests.knowledge.loaders.test_loaders import docx, pdf

from .toy_embedder import ToyEmbedder

CONTENTS: dict[str, bytes] = {
    "a.md": "\ufeff# Zwölf\r\n\r\nÄpfel und Öl.\r\n\r\n## Zwei\r\n\r\nBirnen, schön.\r\n".encode(),
    "b.html": "<h1>One</h1><p>Größe eins.<h2>Two</h2><p>Second é.".encode(),
    "c.pdf": pdf("First page.", "Second page."),
    "d.docx": docx(),
    "e.csv": "name,preis\nÄpfel,3\n".encode(),
    "g.txt": "Größe eins.\n\n".encode("utf-16") + ("Wörter " * 200).encode("utf-16-le") + "\n\nÖl am Ende.\n".encode("utf-16-le"),
    "h.md": ("# Überschrift\n\nGröße eins.\n\n" + "Wörter " * 200 + "\n\nÖl am Ende.\n").encode("cp1252"),
    "f.jsonl": '{"text": "première"}\n{"text": "zweite"}\n'.encode(),
}


@pytest.fixture
def rag(tmp_path: Path) -> DualRAG:
    (tmp_path / "docs").mkdir()
    for name, content in CONTENTS.items():
        (tmp_path / "docs" / name).write_bytes(content)
    rag = DualRAG(tmp_path / "kb", ToyEmbedder())
    assert rag.add_paths([tmp_path / "docs"], "finance").failed == ()
    return rag


@pytest.mark.parametrize("name", CONTENTS)
def test_every_passage_is_found_in_its_source(rag: DualRAG, name: str) -> None:
    [count] = [entry.n_chunks for entry in rag.list_documents("finance") if entry.document == name]
    for number in range(count):
        shown = rag.passage(f"{name}#{number}", "finance")
        assert (shown.state, shown.passage.source.endswith(name)) == ("unchanged", True)
        assert shown.before or number == 0 or name == "x"
    assert rag.passage(f"{name}#0", "finance").after or count == 1


def test_what_surrounds_it_is_that_of_the_file(rag: DualRAG) -> None:
    shown = rag.passage("a.md#0", "finance")
    assert CONTENTS["a.md"].decode().replace("\r\n", "\n").startswith(shown.before + shown.passage.text + shown.after)
    assert shown.passage.text == "Äpfel und Öl."


def test_line_ends_of_windows_are_only_in_the_file(rag: DualRAG, tmp_path: Path) -> None:
    text = "# Roses\n\nPrune roses in the last\nweek of February.\n\n```\nprune --all\n```\n\nWater them.\n"
    for name, content in (("unix.md", text), ("windows.md", text.replace("\n", "\r\n")), ("mac.md", text.replace("\n", "\r"))):
        (tmp_path / name).write_bytes(content.encode())
        rag.add_paths([tmp_path / name], "finance")
    unix, windows, mac = (rag.passage(f"{name}.md#0", "finance") for name in ("unix", "windows", "mac"))
    assert "last\nweek" in unix.passage.text
    assert (windows.passage.text, windows.before, windows.after, windows.state) == (unix.passage.text, unix.before, unix.after, "unchanged")
    assert (mac.passage.text, mac.state) == (unix.passage.text, "unchanged")
    raw = (tmp_path / "windows.md").read_bytes()[windows.passage.start : windows.passage.end]
    assert raw.decode() == unix.passage.text.replace("\n", "\r\n")


def test_a_source_that_changed_or_went(rag: DualRAG, tmp_path: Path) -> None:
    (tmp_path / "docs/a.md").write_text("other")
    (tmp_path / "docs/b.html").unlink()
    assert [rag.passage(f"{name}#0", "finance").state for name in ("a.md", "b.html")] == ["changed", "missing"]
    assert rag.passage("b.html#0", "finance").passage.text == "Größe eins."


def test_text_and_what_ships(rag: DualRAG) -> None:
    rag.add_global_documents([{"content": "Given.", "metadata": {"id": "given"}}])
    assert rag.passage("given#0").state == "text"
    rag.add_paths([shipped("domains") / "finance" / "knowledge"], "finance")
    assert rag.passage("dispute-a-charge.md#0", "finance").state == "unchanged"


def test_unknown_passages(rag: DualRAG) -> None:
    with pytest.raises(UnknownNameError, match=r"no passage 'c.pdf#9'") as caught:
        rag.passage("c.pdf#9", "finance")
    assert caught.value.hint == "Its passages are 0 to 1."
    with pytest.raises(UnknownNameError, match="unknown passage"):
        rag.passage("c.pdf#0")
