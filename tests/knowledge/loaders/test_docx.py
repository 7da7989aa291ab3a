from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from docx import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls

from mdsa_local.knowledge.loaders.docx import read

RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = "application/vnd.openxmlformats-officedocument.wordprocessingml"
BOX = (
    '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><mc:Choice Requires="wps">{0}</mc:Choice>'
    "<mc:Fallback>{0}</mc:Fallback></mc:AlternateContent>"
)


def part(markup: str) -> Any:
    return parse_xml(markup.replace(">", f" {nsdecls('w')}>", 1))


def sections(folder: Path, document: Any) -> list[tuple[str, str]]:
    out = BytesIO()
    document.save(out)
    (folder / "a.docx").write_bytes(out.getvalue())
    return [(section.title, section.text.rstrip("\n")) for section in read(folder / "a.docx")]


def text(folder: Path, document: Any) -> str:
    return "\n\n".join(said for _, said in sections(folder, document))


def table(document: Any, *rows: str) -> Any:
    """A table of these cells, which a bar parts."""
    cells = [row.split("|") for row in rows]
    added = document.add_table(len(cells), len(cells[0]))
    for row, words in zip(added.rows, cells, strict=True):
        for cell, word in zip(row.cells, words, strict=True):
            cell.text = word
    return added


def merge(added: Any, row: int, value: str = "") -> None:
    """Let the first cell of a row be one with that above it, if ``value`` does not say otherwise."""
    added._tbl.tr_lst[row].tc_lst[0].get_or_add_tcPr().append(part(f"<w:vMerge{value}></w:vMerge>"))


def style(document: Any, name: str, based: str = "", kind: WD_STYLE_TYPE = WD_STYLE_TYPE.PARAGRAPH) -> Any:
    added = document.styles.add_style(name, kind)
    if based:
        added.base_style = document.styles[based]
    return added


def noted(document: Any, kind: str, *notes: str) -> None:
    """Give a document notes, numbered from 1."""
    inner = "".join(f'<w:{kind} w:id="{n}"><w:p><w:r><w:t>{note}</w:t></w:r></w:p></w:{kind}>' for n, note in enumerate(notes, 1))
    markup = f"<w:{kind}s {nsdecls('w')}>{inner}</w:{kind}s>"
    added = Part(PackURI(f"/word/{kind}s.xml"), f"{TYPES}.{kind}s+xml", markup.encode(), document.part.package)
    document.part.relate_to(added, f"{RELATIONS}/{kind}s")


def refer(paragraph: Any, kind: str, number: int) -> None:
    mark = '<w:rPr><w:vertAlign w:val="superscript"/></w:rPr>'
    paragraph._p.append(part(f'<w:r>{mark}<w:{kind}Reference w:id="{number}"/></w:r>'))


def test_equal_cells_are_kept_and_merged_ones_said_once(tmp_path: Path) -> None:
    document = Document()
    added = table(document, "Museum tour|12|12", "Guest|yes|no", "all| | ", " | | ", "Tea||5")
    added.cell(2, 0).merge(added.cell(2, 2))
    assert text(tmp_path, document) == "Museum tour | 12 | 12\nGuest | yes | no\nall\nTea |  | 5"


def test_a_cell_of_many_rows_takes_no_longer_in_each(tmp_path: Path) -> None:
    document = Document()
    added = table(document, "Day|Hour|Room", *(f"Mon|{n}|Blue" for n in range(600)))
    for rows in (range(1, 500), range(500, 601)):
        for at in rows:
            merge(added, at, ' w:val="restart"' if at == rows[0] else "")
    added._tbl.tr_lst[500].tc_lst[0].p_lst[0].r_lst[0].text = "Tue"
    began = time.process_time()
    lines = text(tmp_path, document).splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("Day: Mon; Hour: 0; Room: Blue", "Day: Tue; Hour: 599; Room: Blue", 600)
    assert time.process_time() - began < 5


def test_a_cell_that_goes_on_from_none_stands_for_itself(tmp_path: Path) -> None:
    document = Document()
    added = table(document, "Day|Hour", "Mon|9", "Tue|10")
    for at in (0, 2):
        merge(added, at)
    assert text(tmp_path, document) == "Day | Hour\nMon | 9\nMon | 10"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("Item|Adult|Child", "Tea|5|4", "Bun||3"), "Item: Tea; Adult: 5; Child: 4\nItem: Bun; Child: 3"),
        (
            ("Item|Size|Price", "Tea|small|5", "|big|6", "Bun|small|3", "|big|4"),
            "Item: Tea; Size: small; Price: 5\nItem: Tea; Size: big; Price: 6\nItem: Bun; Size: small; Price: 3\nItem: Bun; Size: big; Price: 4",
        ),
        # What may be a row like the others names nothing.
        (("Mon|closed|by call", "Tue|9-12|14-18", "Sun|closed|14-18"), "Mon | closed | by call\nTue | 9-12 | 14-18\nSun | closed | 14-18"),
        (("Anna|Berlin|Sales", "Carl|Bonn|Law", "Eva|Rome|Sales"), "Anna | Berlin | Sales\nCarl | Bonn | Law\nEva | Rome | Sales"),
        (("Owner|Anna", "Floor|3", "Rooms|12"), "Owner | Anna\nFloor | 3\nRooms | 12"),
        (("Room 1|80|60", "Room 2|90|70", "Room 3|95|75"), "Room 1 | 80 | 60\nRoom 2 | 90 | 70\nRoom 3 | 95 | 75"),
    ],
)  # fmt: skip
def test_the_first_row_of_a_table_names_its_columns_where_it_is_certain(tmp_path: Path, rows: tuple[str, ...], said: str) -> None:
    document = Document()
    table(document, *rows)
    assert text(tmp_path, document) == said


@pytest.mark.parametrize(
    ("bold", "said"), [((0,), "Role: Guest; Read: yes; Write: no\nRole: Editor; Read: yes; Write: yes"), ((0, 2), None), ((), None)]
)
def test_a_bold_first_row_names_the_columns(tmp_path: Path, bold: tuple[int, ...], said: str | None) -> None:
    document = Document()
    added = table(document, "Role|Read|Write", "Guest|yes|no", "Editor|yes|yes")
    for cell in [cell for at in bold for cell in added.rows[at].cells]:
        cell.paragraphs[0].runs[0].bold = True
    assert text(tmp_path, document) == (said or "Role | Read | Write\nGuest | yes | no\nEditor | yes | yes")


def test_what_is_raised_or_lowered_is_no_part_of_a_number(tmp_path: Path) -> None:
    document = Document()
    style(document, "Power", kind=WD_STYLE_TYPE.CHARACTER).font.superscript = True
    paragraph = document.add_paragraph("About 10")
    paragraph.add_run("1").font.superscript = True
    paragraph.add_run("6").font.superscript = True
    paragraph.add_run(" cells, 5 m")
    paragraph.add_run("2", style="Power")
    paragraph.add_run(" of H")
    paragraph.add_run("2").font.subscript = True
    paragraph.add_run("O, the 1")
    paragraph.add_run("st").font.superscript = True
    assert text(tmp_path, document) == "About 10¹⁶ cells, 5 m² of H₂O, the 1st"


def test_what_is_struck_out_or_hidden_by_a_style_is_left_out(tmp_path: Path) -> None:
    document = Document()
    style(document, "Struck", kind=WD_STYLE_TYPE.CHARACTER).font.strike = True
    style(document, "Old").font.double_strike = True
    style(document, "Older", "Old")
    style(document, "Secret").font.hidden = True
    paragraph = document.add_paragraph("Notice: ")
    paragraph.add_run("two", style="Struck")
    paragraph.add_run("ten").font.hidden = True
    paragraph.add_run("four weeks.")
    document.add_paragraph("Dogs are allowed.", style="Older").add_run("Cats are.").font.double_strike = False
    document.add_paragraph("The code is 42.", style="Secret")
    assert text(tmp_path, document) == "Notice: four weeks.\n\nCats are."


def test_a_style_based_on_a_heading_and_a_level_of_the_outline_make_headings(tmp_path: Path) -> None:
    document = Document()
    style(document, "Firm Heading", "Heading 1")
    style(document, "Firmer Heading", "Firm Heading")
    outlined = style(document, "Part")
    outlined.element.get_or_add_pPr().append(part('<w:outlineLvl w:val="1"></w:outlineLvl>'))
    for words, name in (
        ("Plan A", "Firm Heading"), ("Two weeks.", ""), ("Plan B", "Firmer Heading"), ("Four weeks.", ""), ("Fees", "Part"), ("None.", ""),
        ("You pay monthly.", "Part"), ("Contents", "TOC Heading"),
    ):  # fmt: skip
        document.add_paragraph(words, style=name or None)
    paragraph = document.add_paragraph("End")
    paragraph._p.get_or_add_pPr().append(part('<w:outlineLvl w:val="0"></w:outlineLvl>'))
    document.add_paragraph("By letter.")
    assert sections(tmp_path, document) == [
        ("Plan A", "Two weeks."),
        ("Plan B", "Four weeks."),
        ("Plan B > Fees", "None.\n\nYou pay monthly.\n\nContents"),
        ("End", "By letter."),
    ]


def test_notes_are_told_where_they_are_referred_to(tmp_path: Path) -> None:
    document = Document()
    heading = document.add_heading("Shipping", 1)
    refer(heading, "footnote", 4)
    paragraph = document.add_paragraph("Shipping is free for all orders.")
    refer(paragraph, "footnote", 1)
    paragraph.add_run(" It takes 3 days")
    refer(paragraph, "footnote", 2)
    paragraph.add_run(" or 10")
    refer(paragraph, "endnote", 1)
    refer(paragraph, "footnote", 9)
    paragraph.add_run(" days.")
    noted(document, "footnote", "Only within Germany.", "Not on holidays. Ask us.", "Unused.", "As of May.")
    noted(document, "endnote", "by ship")
    assert sections(tmp_path, document) == [
        (
            "Shipping",
            "As of May.\n\nShipping is free for all orders (Only within Germany). It takes 3 days or 10 (by ship) days. (Not on holidays. Ask us.)",
        )
    ]


def test_damaged_notes_hide_no_text(tmp_path: Path) -> None:
    document = Document()
    refer(document.add_paragraph("Free."), "footnote", 1)
    added = Part(PackURI("/word/footnotes.xml"), f"{TYPES}.footnotes+xml", b"<broken", document.part.package)
    document.part.relate_to(added, f"{RELATIONS}/footnotes")
    assert text(tmp_path, document) == "Free."


def test_text_boxes_are_read_once(tmp_path: Path) -> None:
    document = Document()

    def box(*words: str, more: str = "") -> str:
        inner = "".join(f"<w:p><w:r><w:t>{each}</w:t></w:r></w:p>" for each in words)
        return f"<w:pict><w:txbxContent>{inner}{more}</w:txbxContent></w:pict>"

    paragraph = document.add_paragraph("Before.")
    inner = f"<w:p><w:r><w:t>Outer.</w:t>{box('Inner.')}</w:r></w:p>"
    paragraph._p.append(part(f"<w:r>{BOX.format(box('Never open', 'the lid.'))}{box(more=inner)}</w:r>"))
    paragraph._p.append(part(f'<w:del w:id="1" w:author="a"><w:r>{box("Deleted.")}</w:r></w:del>'))
    document.add_paragraph("After.").add_run()._r.append(OxmlElement("w:br"))
    assert text(tmp_path, document).split("\n\n") == ["Before.", "Never open", "the lid.", "Outer.", "Inner.", "After."]
