from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from docx import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from mdsa_local.knowledge.loaders.docx import read


def text(folder: Path, document: Any) -> str:
    """What a document says, all sections after one another."""
    out = BytesIO()
    document.save(out)
    (folder / "a.docx").write_bytes(out.getvalue())
    return "".join(section.text for section in read(folder / "a.docx")).rstrip("\n")


def styled(*paragraphs: tuple[str, str]) -> Any:
    """A document of paragraphs, each with its style."""
    document = Document()
    for words, style in paragraphs:
        document.add_paragraph(words, style=style or None)
    return document


def part(markup: str) -> Any:
    return parse_xml(markup.replace(">", f" {nsdecls('w')}>", 1))


def add(document: Any, words: str, number: int | str, level: int | str | None = None, style: str | None = None) -> None:
    """A paragraph that is in a list by itself."""
    paragraph = document.add_paragraph(words, style=style)
    at = "" if level is None else f'<w:ilvl w:val="{level}"/>'
    paragraph._p.get_or_add_pPr().append(part(f'<w:numPr>{at}<w:numId w:val="{number}"/></w:numPr>'))


def numbered() -> Any:
    """A document with lists 90 (numbers below bullets below numbers from 3), 91 (the same, from 7), 92 (letters) and 93 (of no kind)."""
    document = Document()
    root = document.part.numbering_part.element
    levels = "".join(
        f'<w:lvl w:ilvl="{at}"><w:start w:val="{start}"/><w:numFmt w:val="{kind}"/></w:lvl>'
        for at, (kind, start) in enumerate([("decimal", 3), ("bullet", 1), ("decimal", 1)])
    )
    root.insert(0, part(f'<w:abstractNum w:abstractNumId="80">{levels}</w:abstractNum>'))
    root.insert(0, part('<w:abstractNum w:abstractNumId="81"><w:lvl w:ilvl="0"><w:numFmt w:val="lowerLetter"/></w:lvl></w:abstractNum>'))
    begin = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="7"/></w:lvlOverride>'
    for number, kind, more in ((90, 80, ""), (91, 80, begin), (92, 81, ""), (93, 82, "")):
        root.append(part(f'<w:num w:numId="{number}"><w:abstractNumId w:val="{kind}"/>{more}</w:num>'))
    return document


def test_paragraphs_in_styles_for_numbers_are_counted(tmp_path: Path) -> None:
    document = styled(
        ("Close", "List Number"), ("", ""), ("Drain", "List Number"), ("all of it", "List Continue"),
        ("by hand", "List Number 2"), ("or pump", "List Number 2"), ("Open", "List Number"), ("hot", "List Number 2"), ("Done.", ""),
        ("Close", "List Number"), ("Head", "Heading 1"), ("Begin", "List Number"), ("", "List Number"), ("End", "List Number"),
    )  # fmt: skip
    assert text(tmp_path, document).split("\n\n") == [
        "1. Close", "2. Drain", "  all of it", "  1. by hand", "  2. or pump", "3. Open", "  1. hot", "Done.", "1. Close", "1. Begin", "3. End",
    ]  # fmt: skip


def test_lists_in_lists_are_indented(tmp_path: Path) -> None:
    document = styled(
        ("Fees", "List Bullet"), ("small:\n200 euros", "List Bullet 2"), ("net", "List Bullet 3"), ("Time", "List"), ("a day", "List 2")
    )
    assert text(tmp_path, document) == "- Fees\n\n  - small:\n    200 euros\n\n    - net\n\n- Time\n\n  - a day"


def test_paragraphs_of_a_numbered_list_have_its_marks(tmp_path: Path) -> None:
    document = numbered()
    for words, number, level in (
        ("Close", 90, 0), ("Drain", 90, None), ("by hand", 90, 1), ("left", 90, 2), ("right", 90, 2), ("or pump", 90, 1), ("up", 90, 2),
        ("Open", 90, 0), ("Other", 91, 0), ("Go on", 90, 0), ("letter", 92, 0), ("no kind", 93, 0), ("no list", 99, 1), ("no level", 90, 5),
        ("bad", "x", "-3"),
    ):  # fmt: skip
        add(document, words, number, level)
    add(document, "In a style", 90, 0, "List Paragraph")
    add(document, "", 90, 0)
    add(document, "Of numbers", 91, 0, "List Number")
    add(document, "Of none", 0, 0, "List Bullet")
    add(document, "Plain", 0)
    add(document, "Deep", 92, 1000)
    assert text(tmp_path, document).split("\n\n") == [
        "3. Close", "4. Drain", "  - by hand", "    1. left", "    2. right", "  - or pump", "    1. up", "5. Open", "7. Other", "6. Go on",
        "- letter", "- no kind", "  - no list", f"{'  ' * 5}- no level", "- bad", "7. In a style", "8. Of numbers", "Of none", "Plain",
        f"{'  ' * 8}- Deep",
    ]  # fmt: skip


def test_a_style_may_be_of_a_list(tmp_path: Path) -> None:
    document = numbered()
    steps, more = document.styles.add_style("Steps", 1), document.styles.add_style("More steps", 1)
    more.base_style = steps
    steps.element.get_or_add_pPr().append(part('<w:numPr><w:ilvl w:val="2"/><w:numId w:val="90"/></w:numPr>'))
    document.add_paragraph("one", style="Steps")
    document.add_paragraph("two", style="More steps")
    add(document, "none", 0, style="More steps")
    # Styles that are based on each other.
    steps.base_style = more
    document.styles.add_style("Other", 1).base_style = more
    document.add_paragraph("three", style="Other")
    assert text(tmp_path, document) == "    1. one\n\n    2. two\n\nnone\n\n    3. three"


def test_a_file_without_numbering_has_lists_all_the_same(tmp_path: Path) -> None:
    document = styled(("One", "List Number"), ("Two", "List Bullet"))
    add(document, "Three", 1, 0)
    for name in [name for name, relation in document.part.rels.items() if relation.reltype.endswith("/numbering")]:
        del document.part.rels[name]
    assert text(tmp_path, document) == "1. One\n\n- Two\n\n- Three"


@pytest.mark.parametrize(("mark", "struck"), [("", True), ("true", True), ("1", True), ("0", False), ("false", False), ("off", False)])
@pytest.mark.parametrize("line", ["strike", "dstrike"])
def test_what_is_struck_out_is_left_out(tmp_path: Path, line: str, mark: str, struck: bool) -> None:
    def strike(run: Any) -> None:
        value = f' w:val="{mark}"' if mark else ""
        run._r.get_or_add_rPr().append(parse_xml(f"<w:{line} {nsdecls('w')}{value}/>"))

    document = Document()
    heading = document.add_heading("Fees ", 1)
    strike(heading.add_run("2023 "))
    heading.add_run("2024")
    table = document.add_table(1, 2)
    table.cell(0, 0).text = "Gold"
    for paragraph in (document.add_paragraph("It costs "), document.add_paragraph("", style="List Number"), table.cell(0, 1).paragraphs[0]):
        strike(paragraph.add_run("20 "))
        paragraph.add_run("15 euros")
    strike(document.add_paragraph().add_run("Gone."))
    said = text(tmp_path, document)
    [section] = read(tmp_path / "a.docx")
    if struck:
        assert (section.title, said) == ("Fees 2024", "Gold | 15 euros\n\nIt costs 15 euros\n\n1. 15 euros")
    else:
        assert (section.title, said) == ("Fees 2023 2024", "Gold | 20 15 euros\n\nIt costs 20 15 euros\n\n1. 20 15 euros\n\nGone.")


def test_lists_in_a_cell_stay_on_its_line(tmp_path: Path) -> None:
    document = numbered()
    table = document.add_table(1, 2)
    table.cell(0, 0).text = "Steps"
    cell = table.cell(0, 1)
    for words in ("Close", "Open"):
        cell.add_paragraph(words, style="List Number")
    assert text(tmp_path, document) == "Steps | Close Open"
