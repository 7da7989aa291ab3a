from __future__ import annotations

import errno
import json
import re
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from mdsa_local import child
from mdsa_local.knowledge.check import check
from mdsa_local.knowledge.chunking import chunk_all
from mdsa_local.knowledge.ingest import Report, ingest
from mdsa_local.knowledge.lance import connect
from mdsa_local.knowledge.loaders import LOADERS, Section, UnreadableError, family, fingerprint
from mdsa_local.knowledge.loaders.contained import Limits, Reader
from mdsa_local.knowledge.store import KnowledgeBase
from tests.knowledge.toy_embedder import ToyEmbedder


def pdf(*pages: str) -> bytes:
    """A PDF file with a line of text on each page."""
    return shown(*(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else "" for text in pages))


def shown(*pages: str) -> bytes:
    """A PDF file, written by hand, of the operators of each page. ``F1`` is Helvetica, ``F2`` bold and ``F3`` as of a typewriter."""
    kids = " ".join(f"{6 + 2 * n} 0 R" for n in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects += [f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} >>" for name in ("Helvetica", "Helvetica-Bold", "Courier")]
    fonts = "/F1 3 0 R /F2 4 0 R /F3 5 0 R"
    for n, content in enumerate(pages):
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << {fonts} >> >> /Contents {7 + 2 * n} 0 R >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    out, places = b"%PDF-1.4\n", []
    parts = [out]
    at = len(out)
    for number, body in enumerate(objects, 1):
        places.append(at)
        parts.append(f"{number} 0 obj\n{body}\nendobj\n".encode())
        at += len(parts[-1])
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    parts.append(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n".encode())
    parts.append(f"<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{at}\n%%EOF\n".encode())
    return b"".join(parts)


def titled_pdf(title: str) -> bytes:
    """A PDF file with a title of its own."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(BytesIO(pdf("Text."))))
    writer.add_metadata({"/Title": title})
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def docx() -> bytes:
    from docx import Document

    document = Document()
    document.add_heading("Handbook", 0)
    document.add_paragraph("Before all.")
    document.add_heading("Leave", 1)
    document.add_paragraph("Thirty days a year.")
    document.add_paragraph("Ask first", style="List Bullet")
    document.add_heading("Illness", 2)
    table = document.add_table(2, 2)
    for row, cells in zip(table.rows, [("Day", "Note"), ("3", "doctor's")], strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    out = BytesIO()
    document.save(out)
    return out.getvalue()


def read(folder: Path, name: str, content: bytes | str, limits: Limits | None = None) -> list[Section]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with Reader(limits) as reader:
        return list(reader.sections(path))


def texts(sections: list[Section]) -> list[tuple[str, str]]:
    return [(section.title, section.text.strip()) for section in sections]


def test_html_keeps_structure_and_drops_what_is_not_shown(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>T</title><style>p {color: red}</style><script>steal()</script></head><body>
    <nav>Home</nav><h1>Cards &amp; more</h1><p>Freeze a <b>card</b> in the<br>app.</p><script>alert("<p>x</p>")</script>
    <h2>Fees</h2><ul><li>None</li><li>Two euros</li></ul><table><tr><th>Kind</th><th>Fee</th></tr><tr><td>Gold</td><td>5</td></tr></table>
    <pre>a = 1
    b = 2</pre><div hidden>secret</div><p onclick="evil()">Last &lt;script&gt; as text"""
    assert texts(read(tmp_path, "page.html", page)) == [
        ("Cards & more", "Freeze a card in the\napp."),
        ("Cards & more > Fees", "- None\n\n- Two euros\n\nKind: Gold; Fee: 5\n\na = 1\n    b = 2\n\nLast <script> as text"),
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<meta charset='iso-8859-1'><p>caf\xe9".encode("latin-1"), "caf\xe9"),
        ("<p>caf\xe9".encode("utf-16"), "caf\xe9"),
        ("<p>caf\xe9".encode("utf-32"), "caf\xe9"),
        ("\ufeff<p>caf\xe9".encode(), "caf\xe9"),
        (b"<p>caf\xe9 \x80", "caf\xe9 €"),
        # Labels as browsers take them.
        (b"<meta charset=iso-8859-1><p>don\x92t pay \x80 5\x81", "don\u2019t pay € 5"),
        (b"<meta charset=us-ascii><p>caf\xe9", "caf\xe9"),
        ("<meta charset=latin1><p>caf\xe9".encode(), "caf\xe9"),
        ("<meta charset=gb2312><p>\u9ec4\u91d1\u5468\u9555".encode("gbk"), "\u9ec4\u91d1\u5468\u9555"),
        ("<meta charset=x-sjis><p>\u2460".encode("cp932"), "\u2460"),
        (b"<meta charset=utf-16><p>abcd", "abcd"),
        # And of the page, not of something that it loads, shows or leaves out.
        (b"<script src=a.js charset=utf-8></script><p>caf\xe9", "caf\xe9"),
        ("<script charset=shift_jis></script><p>Gr\xfc\xdfe".encode(), "Gr\xfc\xdfe"),
        (b"<!-- <meta charset=klingon> --><p>charset=foo", "charset=foo"),
        (b"<?xml version='1.0' encoding='iso-8859-1'?><p>caf\xe9", "caf\xe9"),
        (b"<meta http-equiv=Content-Type content='text/html; charset=iso-8859-1'><p>caf\xe9", "caf\xe9"),
    ],
)
def test_html_in_other_encodings(tmp_path: Path, content: bytes, text: str) -> None:
    assert texts(read(tmp_path, "page.htm", content)) == [("page", text)]


def test_html_that_lies_about_its_encoding_is_refused(tmp_path: Path) -> None:
    for content, said in (
        (b"<meta charset=utf-8><p>caf\xe9", "not utf-8 text"),
        (b"<meta charset=klingon><p>x", "unknown encoding 'klingon'"),
        (b"<meta charset=utf-7><p>+2AA-", "'utf-7'"),
        (b"<meta charset=unicode_escape><p>\\ud800", "'unicode_esc"),
    ):
        with pytest.raises(UnreadableError, match=said):
            read(tmp_path, "page.html", content)


ENCODED = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "Größe\r\nzwölf €\f", "Größe\r\nzwölf €"),
        ("a.md", "# Öl\n\n„Über“", "# Öl\n\n„Über“"),
        ("a.csv", "Stück;Größe\nÄpfel;3\n", "Stück: Äpfel; Größe: 3"),
        ("a.tsv", "Stück\tGröße\nÄpfel\t3", "Stück: Äpfel; Größe: 3"),
        ("a.json", '{"text": "Größe"}', "Größe"),
        ("a.jsonl", '{"text": "Größe"}\r\n', "Größe"),
        ("a.html", "<p>Größe</p>", "Größe"),
    ],
)
def test_text_says_how_it_is_encoded_or_is_taken_for_what_it_can_be(tmp_path: Path, encoding: str, name: str, content: str, said: str) -> None:
    assert [text.removeprefix("\ufeff") for _, text in texts(read(tmp_path, name, content.encode(encoding)))] == [said]


def test_a_character_between_two_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.loaders.text.PIECE_BYTES", 5)
    for encoding in ENCODED:
        whole = "".join(section.text for section in read(tmp_path, "a.txt", "ä€öü😀\n"[: 4 if encoding == "cp1252" else None].encode(encoding)))
        assert whole.removeprefix("\ufeff") == "ä€öü😀\n"[: len(whole.removeprefix("\ufeff"))]


def test_json_in_utf16_needs_no_mark(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.json", '{"text": "Größe"}'.encode("utf-16-le")))[0][1] == "Größe"


def test_pdf_pages(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "report.pdf", pdf("First page.", "", "Third page."))) == [
        ("report > page 1", "First page."),
        ("report > page 3", "Third page."),
    ]


def test_a_word_parted_at_the_end_of_a_line_is_whole(tmp_path: Path) -> None:
    lines = ("(The infor-) Tj 0 -14 Td (mation desk) Tj", "(has a long-) Tj 0 -14 Td (term plan.) Tj")
    pages = [f"BT /F1 12 Tf 72 700 Td {line} ET" for line in lines]
    pages.append("BT /F1 12 Tf 72 700 Td (A long-term view.) Tj ET")
    assert [text for _, text in texts(read(tmp_path, "a.pdf", shown(*pages)))] == [
        "The information\ndesk",
        "has a long-term\nplan.",
        "A long-term view.",
    ]


def test_another_sign_in_the_place_of_the_blank_hides_no_gap_between_words(tmp_path: Path) -> None:
    font = "/FirstChar 32 /LastChar 32 /Widths [700] /FontDescriptor << /Type /FontDescriptor /FontName /X /Flags 4 /CharSet (/a/b{}) >>"
    found = []
    for sign in ("", "/space"):
        data = shown("BT /F1 12 Tf 72 700 Td [(Ask)-180(the)-20(y)] TJ ET").replace(
            b"/BaseFont /Helvetica", b"/BaseFont /X " + font.format(sign).encode()
        )
        found.append(texts(read(tmp_path, "a.pdf", data))[0][1])
    assert found == ["Ask they", "Askthey"]


@pytest.mark.parametrize(
    ("title", "used"),
    [
        ("  Heating\nmanual ", "Heating manual"),
        ("Documents of our house", "Documents of our house"),
        ("", "a"),
        ("Untitled", "a"),
        ("untitled document 3", "a"),
        ("Microsoft Word - final_v2.doc", "a"),
        ("final_v2.docx", "a"),
        ("Word Document", "a"),
        ("x" * 300, "a"),
    ],
)
def test_a_document_that_names_itself_is_called_so(tmp_path: Path, title: str, used: str) -> None:
    from docx import Document

    assert texts(read(tmp_path, "a.pdf", titled_pdf(title)))[0][0] == f"{used} > page 1"
    assert texts(read(tmp_path, "a.html", f"<html><head><title>{title}</title></head><p>Text.<svg><title>No</title></svg>")) == [(used, "Text.")]
    assert texts(read(tmp_path, "a.htm", f"<title>{title}</title><title>two</title><p>Text.<h1>Head</h1>More.")) == [
        (used, "Text."),
        ("Head", "More."),
    ]
    document = Document()
    document.core_properties.title = title[:255]
    document.add_paragraph("Text.")
    document.add_heading("Head", 1)
    document.add_paragraph("More.")
    out = BytesIO()
    document.save(out)
    assert [name for name, _ in texts(read(tmp_path, "a.docx", out.getvalue()))] == [used, "Head"]


def test_a_damaged_title_hides_no_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.pdf", pdf("Text.").replace(b"/Root", b"/Info [] /Root"))) == [("a > page 1", "Text.")]
    word, changed = BytesIO(docx()), BytesIO()
    with zipfile.ZipFile(word) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            other.writestr(name, b"<other/>" if name == "docProps/core.xml" else archive.read(name))
    assert texts(read(tmp_path, "a.docx", changed.getvalue()))[0] == ("Handbook", "Before all.")


def test_a_head_without_end_hides_nothing(tmp_path: Path) -> None:
    for page in (
        "<html><head><title>A page</title><meta charset=utf-8><style>p {}</style><body><p>Text here.",
        "<head><title>A page</title>Text here.",
    ):
        assert texts(read(tmp_path, "p.html", page)) == [("A page", "Text here.")]
    assert texts(read(tmp_path, "p.html", "<head><title>A page</title><title>Another</title></head><p>Text.")) == [("A page", "Text.")]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>first<p hidden>x<p>second<p>third", "first\n\nsecond\n\nthird"),
        ("<ul><li>one<li hidden>x<ul><li>in<li>it</ul>too<li>three</ul><p>after", "- one\n\n- three\n\nafter"),
        ("<ul><li>one<li hidden>x</ul><p>after", "- one\n\nafter"),
        ("<table><tr><td>a<td>b<tr hidden><td>x<td>y<tr><td>e<td>f</table>after", "a | b\n\ne | f\n\nafter"),
        ("<table><tr><td>a<td hidden>x</tr><tr><td>c<td>d</table>after", "a\n\nc | d\n\nafter"),
        ("<dl><dt hidden>x<dd>b<dt>c<dd>d</dl>", "b\n\nc: d"),
        ("<div><p hidden>x</div>y", "y"),
        ("<p hidden>x <b>y</b></p>z", "z"),
        ("<title>page</title><title>two<p>Text.", "Text."),
        ("<title>page</div>Text.", "Text."),
    ],
)
def test_what_is_hidden_ends_where_its_end_tag_is_left_out(tmp_path: Path, page: str, text: str) -> None:
    assert texts(read(tmp_path, "page.html", page)) == [("page", text)]


def test_a_title_without_end_hides_nothing(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.html", "<title>Name<p>Text.")) == [("Name", "Text.")]
    assert texts(read(tmp_path, "b.html", "<head><title>Name</head><body><p>Text.")) == [("Name", "Text.")]


def test_word_keeps_headings_lists_and_tables(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "handbook.docx", docx())) == [
        ("Handbook", "Before all."),
        ("Handbook > Leave", "Thirty days a year.\n\n- Ask first"),
        ("Handbook > Leave > Illness", "Day | Note\n3 | doctor's"),
    ]


def test_rows_name_their_columns(tmp_path: Path) -> None:
    table = 'name;"price\nEUR"\n"Gold; big";5\n\nSilver;3;extra\n'
    [section] = read(tmp_path, "cards.csv", table)
    assert (section.text, section.rows) == ("name: Gold; big; price EUR: 5\n\nname: Silver; price EUR: 3; column 3: extra\n\n", (1, 3))
    assert texts(read(tmp_path, "cards.tsv", "\ufeffname\tprice\nGold, red\t5\n")) == [("", "name: Gold, red; price: 5")]
    many = "n\n" + "".join(f"{n}\n" for n in range(1, 451))
    assert [section.rows for section in read(tmp_path, "many.csv", many)] == [tuple(range(1, 201)), tuple(range(201, 401)), tuple(range(401, 451))]


SHIFTS = ("Date;Name;Task", "1 May;Ann;Gate", ";Ben;Bar", "2 May;Ben;Gate", ";Ann;Bar", "3 May;Ann;Bar")


def rows(folder: Path, *lines: str) -> str:
    """What the rows of a table say."""
    return "\n".join(section.text.rstrip().replace("\n\n", "\n") for section in read(folder, "a.csv", "\n".join(lines)))


def test_cells_left_blank_for_those_above_them_are_told(tmp_path: Path) -> None:
    assert rows(tmp_path, *SHIFTS).split("\n")[1:4:2] == ["Date: 1 May; Name: Ben; Task: Bar", "Date: 2 May; Name: Ann; Task: Bar"]
    towns = ("Land;Town;Year;Sold", "A;B;2023;x", ";;2024;y", ";C;2023;x", "D;B;2023;x", ";;2024;y", "", ";E;2023;z")
    told = [line.split("; Year")[0] for line in rows(tmp_path, *towns).split("\n")]
    assert told == [f"Land: {land}; Town: {town}" for land, town in ("AB", "AB", "AC", "DB", "DB", "DE")]


@pytest.mark.parametrize(
    "lines",
    [
        # What a row is about may stand behind what not all have.
        ("Title;Name;Phone", "Dr;Ann;51", ";Ben;52", "Prof;Eva;53", ";Tom;54"),
        ("Title;Name;Phone", "Dr;Ann;51", ";Ben;52", "Dr;Ann;53", ";Ben;54"),
        ("Phone;Unit;Name", "51;Sales;Ann", ";Sales;Ben", "52;Law;Eva", ";Law;Tom"),
        # One may have been left out, the first have none, or a row be a sum.
        (*SHIFTS[:3], *SHIFTS[3:4], *SHIFTS[5:]),
        ("Date;Name;Task", ";Ben;Bar", *SHIFTS[1:]),
        (*SHIFTS[:3], ";Total;2", *SHIFTS[3:]),
        (*SHIFTS[:3], ";5;2", *SHIFTS[3:]),
        (*SHIFTS[:3], ";Eva;", *SHIFTS[3:]),
    ],
)
def test_cells_that_may_be_blank_for_nothing_stay_so(tmp_path: Path, lines: tuple[str, ...]) -> None:
    blank = sum(line.startswith(";") for line in lines)
    assert rows(tmp_path, *lines).count(f"{lines[0].split(';')[0]}: ") == len(lines) - 1 - blank


MAIL = """From: Karin Holm <k@example.org>
To: All
Date: 3 May 2024
Subject: Re: Party

Dear all,

the party is on 22 June.

On 28 April 2024 Peter Lund <p@example.org>
wrote:
> The party is on 15 June.
>
> On 1 April Tom wrote:
> > When?
"""
OUTLOOK = """See below.

-----Original Message-----
From: Anna Beck
Sent: Monday, 13 May 2024 18:20
Subject: Rehearsal

On Wednesday.
"""


def test_messages_in_a_text_are_apart(tmp_path: Path) -> None:
    first, second = "a > From Karin Holm, 3 May 2024: Re: Party", "a > quoted: On 28 April 2024 Peter Lund wrote"
    for text in (MAIL, MAIL.replace("\n", "\r\n")):
        sections = read(tmp_path, "a.txt", text)
        assert [section.title for section in sections] == [first, second]
        assert "".join(section.text for section in sections) == text
        assert sections[1].text.startswith("On 28 April")
    last = "a > {}From Anna Beck, Monday, 13 May 2024 18:20: Rehearsal"
    assert [section.title for section in read(tmp_path, "a.txt", OUTLOOK)] == ["", last.format("quoted: ")]
    assert [section.title for section in read(tmp_path, "a.txt", OUTLOOK.replace("Original", "Forwarded"))] == ["", last.format("forwarded: ")]
    assert [section.title for section in read(tmp_path, "a.txt", f"{MAIL}\n{OUTLOOK[OUTLOOK.index('From') :]}")] == [first, second, last.format("")]


@pytest.mark.parametrize(
    "text",
    [
        "From: Oslo\nTo: Paris\nDate: 5 May\n\nA flight.",
        "Ann wrote:\n> Is it open?\nYes.\n\n> Is it free?\nNo.",
        "From: A\nDate: 5 May\nSubject: B\nwith more right below.",
        "Goethe wrote:\nNo marks here.",
    ],
)
def test_what_is_no_message_stays_in_its_text(tmp_path: Path, text: str) -> None:
    assert [(section.title, section.text) for section in read(tmp_path, "a.txt", text)] == [("", text)]


def test_many_messages_take_no_longer_each(tmp_path: Path) -> None:
    before = time.process_time()
    assert len(read(tmp_path, "a.txt", f"{OUTLOOK}\nAnn wrote:\n> Yes?\nNo.\n\n" * 4000)) > 4000
    read(tmp_path, "b.txt", "Ann wrote:\n>\nNo.\n" * 20000 + "To: " * 50000 + "To:\n" * 50000)
    read(tmp_path, "c.txt", "> Ann wrote:\n" * 10000 + " > Ann wrote:\n" * 10000 + "No.")
    [(title, _)] = texts(read(tmp_path, "d.txt", f"From: Ann <a@b.c> {'<' * 80000}{'[mailto:' * 10000}\nDate: May\nSubject: B\n\nText."))
    assert title.startswith("d > From Ann <<<")
    (tmp_path / "e.md").write_text(f"\n# {'{#}' * 20000}x\n")
    assert fingerprint(tmp_path / "e.md")[64:] == ""
    assert time.process_time() - before < 5


def test_messages_have_their_places_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.loaders.text.PIECE_BYTES", 200)
    monkeypatch.setattr("mdsa_local.knowledge.loaders.text.MESSAGES_CHARS", 400)
    text = f"\ufeff{MAIL}\n{OUTLOOK[11:]}" + "\nGrüße an alle.\n" * 60
    chunks = list(chunk_all(read(tmp_path, "a.txt", text), len, title="a"))
    for chunk in chunks:
        assert (tmp_path / "a.txt").read_bytes()[chunk.start : chunk.end].decode() == chunk.text
    assert chunks[-1].title.startswith("a > quoted: From Anna Beck")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Produkt;Preis (netto, EUR);Lager\nKaffee;3,50;12\n", "Produkt: Kaffee; Preis (netto, EUR): 3,50; Lager: 12"),
        ("sep=;\nname;price\nGold;5\n", "name: Gold; price: 5"),
        ("sep=|\r\nname|price, net\r\nGold|5\r\n", "name: Gold; price, net: 5"),
        ("name,price\rGold,5\r", "name: Gold; price: 5"),
        ('name,note\nGold,"a; b; c"\n', "name: Gold; note: a; b; c"),
        ("name\nGold; big\n", "name: Gold; big"),
        (f"{'n' * 300},price\nGold,5\n", f"{'n' * 200}…: Gold; price: 5"),
    ],
)
def test_delimiters_are_found_in_the_first_lines(tmp_path: Path, content: str, said: str) -> None:
    assert texts(read(tmp_path, "a.csv", content)) == [("", said)]


@pytest.mark.parametrize(
    ("content", "title", "said"),
    [
        ("Anna,555-0101,Sales\nCarl,555-0102,Law\n", "", "Anna; 555-0101; Sales\n\nCarl; 555-0102; Law"),
        ("Anna,34\nCarl,7\n,\n", "", "Anna; 34\n\nCarl; 7"),
        # Years and numbers that go on one by one are names, and so are digits in words.
        ("Area,2023,2025\nNorth,1500,1200\n", "", "Area: North; 2023: 1500; 2025: 1200"),
        ("Name,1,2\nAnna,5,4\n", "", "Name: Anna; 1: 5; 2: 4"),
        ("Name,Room 1\nAnna,5\n", "", "Name: Anna; Room 1: 5"),
        ("Umsatz 2024;;\n;;\nOrt;Soll;Ist\nUlm;5;6\n", "Umsatz 2024", "Ort: Ulm; Soll: 5; Ist: 6"),
        ("Umsatz 2024;;\nUlm;5;6\nBonn;7;8\n", "Umsatz 2024", "Ulm; 5; 6\n\nBonn; 7; 8"),
        ("Umsatz;\nOrt;Soll\nUlm;5\nBonn;7\n", "Umsatz", "Ort: Ulm; Soll: 5\n\nOrt: Bonn; Soll: 7"),
        ("Umsatz\nin Euro\nOrt;Soll\nUlm;5,5\nBonn;7,1\n", "Umsatz; in Euro", "Ort: Ulm; Soll: 5,5\n\nOrt: Bonn; Soll: 7,1"),
        ("\nname,price\nGold,5\n", "", "name: Gold; price: 5"),
        (",price\nGold,5\nTin,6\n", "", "Gold; price: 5\n\nTin; price: 6"),
        ("name,\nGold,red\nTin,grey\n", "", "name: Gold; red\n\nname: Tin; grey"),
        ("note\na\nb, c\nd, e\n", "", "note: a\n\nnote: b; column 2: c\n\nnote: d; column 2: e"),
        ("name,price\n", "", None),
    ],
)
def test_a_first_row_that_names_no_columns(tmp_path: Path, content: str, title: str, said: str | None) -> None:
    assert texts(read(tmp_path, "a.csv", content)) == ([] if said is None else [(title, said)])


@pytest.mark.parametrize(
    ("name", "content", "said", "lines"),
    [
        ("a.tsv", 'name\tsize\n"5 inch\t3\nB\t4\nC\t5\n', 'name: "5 inch; size: 3\n\nname: B; size: 4\n\nname: C; size: 5', "line 2"),
        ("a.csv", 'sep=;\nname;size\nB;4\n"5 inch;3', 'name: B; size: 4\n\nname: "5 inch; size: 3', "line 4"),
        ("a.csv", 'name,size\r"5 inch,3\r"6, 7",4\r', 'name: "5 inch; size: 3\n\nname: 6, 7; size: 4', "line 2"),
        (
            "a.csv",
            'name,size\n"5 inch,3\nB,4\n"6 inch,5\nC,"two\nlines"\n',
            'name: "5 inch; size: 3\n\nname: B; size: 4\n\nname: "6 inch; size: 5\n\nname: C; size: two lines',
            "lines 2, 4",
        ),
        # What only stands behind a cell that is ended belongs to it.
        ("a.csv", 'name,size\n"5" inch,3\n"a\n""b""\nc" ,4\n', 'name: 5 inch; size: 3\n\nname: a "b" c; size: 4', ""),
    ],
)
def test_a_quotation_mark_without_a_second_one_takes_no_other_row(tmp_path: Path, name: str, content: str, said: str, lines: str) -> None:
    section, *remarks = read(tmp_path, name, content)
    assert section.text.strip() == said
    assert [section.remark for section in remarks] == ([f"{lines}: quotation marks that do not pair are read as text"] if lines else [])


def test_many_quotation_marks_that_do_not_pair_take_no_longer_each(tmp_path: Path) -> None:
    began = time.process_time()
    *_, last = read(tmp_path, "a.csv", "n,m\n" + 'a","b\n' * 50_000)
    assert last.remark.startswith("lines 2, 3, ") and ", 11 and 49,990 more: " in last.remark
    assert time.process_time() - began < 5


def test_wide_rows_make_sections_of_bounded_size(tmp_path: Path) -> None:
    names = ",".join(f"{n:0200d}" for n in range(500))
    sections = read(tmp_path, "a.csv", "\n".join([names, *[",".join("1" * 500)] * 100]))
    assert len(sections) > 5
    assert [number for section in sections for number in section.rows] == list(range(1, 101))
    with pytest.raises(UnreadableError, match="line 1 is longer than 16 million"):
        read(tmp_path, "a.csv", "x" * (17 << 20))


def test_rows_are_named_in_time_that_grows_with_their_text() -> None:
    def took(size: int) -> float:
        began = time.process_time()
        rows = [Section("".join(f"{'word ' * size}{n}\n\n" for n in range(200)), rows=tuple(range(200)))]
        assert len(list(chunk_all(rows, lambda text: text.count(" ") + 2))) >= 200
        return time.process_time() - began

    assert took(4000) < 9 * took(1000)


@pytest.mark.parametrize("window", [1 << 20, 200])
def test_passages_of_a_table_name_their_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.chunking.WINDOW_CHARS", window)
    lines = [f"{n},{'ü' * n}" if n % 7 else "," for n in range(1, 451)]
    lines[299] = f"300,{'long cell ' * 200}"
    path = tmp_path / "many.csv"
    path.write_text("n,text\n" + "\n".join(lines))
    with Reader() as reader:
        chunks = list(chunk_all(reader.sections(path), ToyEmbedder().count_tokens, title="many", max_tokens=60))
    assert len(chunks) > 100
    named = set()
    for piece in chunks:
        numbers = [int(number) for number in re.findall(r"n: (\d+); text", piece.text)]
        told = [int(number) for number in re.findall(r"\d+", piece.title)]
        assert re.fullmatch(r"many > (row \d+|rows \d+ to \d+)", piece.title)
        assert told == ([300] if not numbers else sorted({numbers[0], numbers[-1]}))
        named.update(numbers)
    assert named == {n for n in range(1, 451) if n % 7}


RECORD = {"title": "Cards", "content": "Freeze it.", "tags": ["a", "b"], "author": {"name": "Eve", "born": 1970}, "none": None}
SHOWN = "Freeze it.\n\ntitle: Cards\ntags: a, b\nauthor.name: Eve\nauthor.born: 1970"


def test_json_records(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.json", json.dumps([RECORD, "plain", {"x": [{"y": 1}]}]))) == [
        ("a > Cards", SHOWN),
        ("a > record 2", "plain"),
        ("a > record 3", "x[1].y: 1"),
    ]
    assert texts(read(tmp_path, "b.json", json.dumps(RECORD))) == [("b > Cards", SHOWN)]
    export = {"version": 2, "recipes": [{"title": "Soup", "servings": 4}, {"title": "Tiramisu", "servings": 8}], "tags": [{"one": 1}]}
    assert texts(read(tmp_path, "r.json", json.dumps(export))) == [
        ("r > record 1", "version: 2\ntags[1].one: 1"),
        ("r > Soup", "title: Soup\nservings: 4"),
        ("r > Tiramisu", "title: Tiramisu\nservings: 8"),
    ]
    lines = "\ufeff" + json.dumps(RECORD) + "\r\n\n" + '{"text": "half \\ud800 pair"}\n'
    assert texts(read(tmp_path, "c.jsonl", lines)) == [("c > Cards", SHOWN), ("c > line 3", "half ? pair")]


def test_json_values_are_told_as_they_are_written(tmp_path: Path) -> None:
    record = (
        '{"id": 1.50, "version": 1.10, "serial": 12345678901234567890.5, "most": 1E400, "n": -7, "on": true, "list": [5.00, false, 1e2], "x": NaN}'
    )
    said = "id: 1.50\nversion: 1.10\nserial: 12345678901234567890.5\nmost: 1E400\nn: -7\non: true\nlist: 5.00, false, 1e2\nx: NaN"
    assert texts(read(tmp_path, "a.json", record)) == [("a > record 1", said)]
    assert texts(read(tmp_path, "a.jsonl", record)) == [("a > line 1", said)]


def test_what_is_too_long_for_a_heading_is_text(tmp_path: Path) -> None:
    long = "word " * 100
    assert texts(read(tmp_path, "a.html", f"<h1>Head</h1><h2>{long}</h2><p>Text.")) == [("Head", f"{long.strip()}\n\nText.")]
    assert texts(read(tmp_path, "a.json", json.dumps([{"question": long, "text": "t"}]))) == [("a > record 1", f"t\n\nquestion: {long.strip()}")]
    (tmp_path / "a.md").write_text(f"# Head\n\n## {long}\n\nText.")
    with Reader() as reader:
        assert {piece.title for piece in chunk_all(reader.sections(tmp_path / "a.md"), ToyEmbedder().count_tokens, title="a")} == {"Head"}


def test_records_with_a_title_alone_are_kept(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.json", '[{"name": "Paris"}, {"name": "Rome", "none": null}]')) == [
        ("a > Paris", "name: Paris"),
        ("a > Rome", "name: Rome"),
    ]
    assert texts(read(tmp_path, "b.jsonl", '{"title": "A"}\n{"title": "B", "text": "b"}\n')) == [("b > A", "title: A"), ("b > B", "b")]


def test_a_line_whose_fields_would_be_written_out_without_end_is_passed_over(tmp_path: Path) -> None:
    deep = json.dumps({"x" * 30_000: [{"y": n} for n in range(3000)]})
    huge = '{"n": ' + "9" * 5000 + "}"
    sections = read(tmp_path, "a.jsonl", f'{deep}\n{huge}\n{{"text": "good"}}\n')
    assert [section.text.strip() for section in sections if not section.remark] == ["good"]
    assert ["more than" in section.remark or "not valid JSON" in section.remark for section in sections if section.remark] == [True, True]


def test_word_text_in_insertions_controls_fields_and_nested_tables_is_read(tmp_path: Path) -> None:
    from docx import Document
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    def part(markup: str) -> Any:
        return parse_xml(markup.replace(">", f" {nsdecls('w')}>", 1))

    document = Document()
    paragraph = document.add_paragraph("Notice: ")._p
    paragraph.append(part('<w:del w:id="1" w:author="a"><w:r><w:delText>four</w:delText></w:r></w:del>'))
    paragraph.append(part('<w:ins w:id="2" w:author="a"><w:r><w:t>twelve</w:t></w:r></w:ins>'))
    paragraph.append(part('<w:fldSimple w:instr="X"><w:smartTag><w:r><w:t xml:space="preserve"> weeks</w:t></w:r></w:smartTag></w:fldSimple>'))
    document.element.body.insert(1, part("<w:sdt><w:sdtPr/><w:sdtContent><w:p><w:r><w:t>In a control.</w:t></w:r></w:p></w:sdtContent></w:sdt>"))
    contents = '<w:docPartObj><w:docPartGallery w:val="Table of Contents"/></w:docPartObj>'
    document.element.body.insert(
        0, part(f"<w:sdt><w:sdtPr>{contents}</w:sdtPr><w:sdtContent><w:p><w:r><w:t>Fees 3</w:t></w:r></w:p></w:sdtContent></w:sdt>")
    )
    document.element.body.insert(
        0, part("<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent><w:p><w:r><w:t>Click</w:t></w:r></w:p></w:sdtContent></w:sdt>")
    )
    table = document.add_table(1, 2)
    table.cell(0, 0).text = "outer"
    inner = table.cell(0, 1).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "one", "two"
    out = BytesIO()
    document.save(out)
    assert texts(read(tmp_path, "a.docx", out.getvalue())) == [("a", "Notice: twelve weeks\n\nIn a control.\n\nouter | one | two")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"%PDF-1.4 and then nothing", "damaged or no PDF"),
        ("b.pdf", pdf(), "has no pages"),
        ("c.pdf", pdf("", ""), "has no text, nor a picture"),
        ("p.pdf", pdf("").replace(b"/Resources << ", b"/Resources << /XObject << /I 3 0 R >> "), "its pages are pictures"),
        ("d.docx", b"PK\x03\x04 broken", "damaged or no Word document"),
        ("e.json", b"[" * 100_000, "nested too deeply"),
        ("f.json", b'{"a": ', "not valid JSON"),
        ("g.jsonl", b'\n{"a"\n[1]\n', "line 2: not valid JSON"),
        ("g.ndjson", b'5\n"x"\n', "line 1: no JSON object"),
        ("h.csv", b'a,b\n"' + b"x" * (17 << 20), "line 2 is longer than 16 million characters"),
        ("i.txt", "süß, schön".encode() + b"\xff", "not UTF-8 text: byte 13 begins no character"),
        ("j.md", b"abc\x01\xff", "byte 4 begins no character; nor Windows-1252, where byte 3, 0x01, is none"),
        ("k.txt", b"abc \x81", "Windows-1252, where byte 4"),
        ("l.txt", b"PK\x03\x04\0\0abc", "is binary"),
        ("m.csv", "a,b\n1,2\n".encode("utf-16-le"), "is binary"),
        ("n.md", b"\xff\xfea\0\0\0", "is binary"),
        ("o.md", b"\xff\xfea\0\xff", "not utf-16 text: "),
    ],
)
def test_a_damaged_file_says_why(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read(tmp_path, name, content)


def test_a_bomb_in_a_word_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(docx())) as good, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in good.infolist():
            data = good.read(entry)
            if entry.filename == "word/document.xml":
                data = data.replace(b"Before all.", b" " * (110 << 20))
            bomb.writestr(entry.filename, data)
    assert len(out.getvalue()) < 1 << 20
    with pytest.raises(UnreadableError, match="unpacks to 110 MB"):
        read(tmp_path, "bomb.docx", out.getvalue())


def test_a_bomb_that_lies_about_its_size_stops_at_the_memory_limit(tmp_path: Path) -> None:
    # Nested lists of numbers: 30 MB of text are more than 200 MB of objects.
    with pytest.raises(UnreadableError, match="MB of memory"):
        read(tmp_path, "numbers.json", "[" + "[1234567.5]," * 2_500_000 + "1]", Limits(memory_bytes=100 << 20))


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="takes more than"):
        read(tmp_path, "long.pdf", pdf(*(f"page {n}" for n in range(3000))), Limits(total_s=0.5))


def test_too_much_text_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="MB of text"):
        read(tmp_path, "long.html", "<p>words and words</p><h1>x</h1>" * 300_000, Limits(text_bytes=1 << 20))


def test_one_reader_survives_bad_files_between_good_ones(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pdf", tmp_path / "bad.json"
    good.write_bytes(pdf("Good."))
    bad.write_text("[" + "[1234567.5]," * 2_500_000 + "1]")
    with Reader(Limits(memory_bytes=100 << 20)) as reader:
        for _ in range(2):
            assert [section.text.strip() for section in reader.sections(good)] == ["Good."]
            with pytest.raises(UnreadableError):
                list(reader.sections(bad))


@pytest.mark.parametrize("error", [None, OSError(errno.EINVAL, "Invalid argument")])
def test_a_process_that_is_gone_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> None:
    good = tmp_path / "good.pdf"
    good.write_bytes(pdf("Good."))
    with Reader() as reader:
        list(reader.sections(good))
        assert reader._process is not None and reader._process.stdin is not None
        reader._process.kill()
        reader._process.wait()
        if error:
            # What Windows says.
            monkeypatch.setattr(reader._process, "stdin", Mock(write=Mock(side_effect=error), close=Mock(side_effect=error)))
        with pytest.raises(UnreadableError, match="ended without a word"):
            list(reader.sections(good))
        assert [section.text.strip() for section in reader.sections(good)] == ["Good."]


@pytest.mark.skipif(sys.platform == "win32", reason="a launcher for other systems")
def test_the_memory_of_what_a_launcher_started_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(launcher))
    monkeypatch.setattr(child.family, "__defaults__", (True,))
    with pytest.raises(UnreadableError, match="MB of memory"):
        read(tmp_path, "numbers.json", "[" + "[1234567.5]," * 2_500_000 + "1]", Limits(memory_bytes=100 << 20))


def test_a_parser_that_crashes_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pypdf"
    package.mkdir()
    (package / "__init__.py").write_text("class PdfReader:\n    def __init__(self, path): raise RuntimeError('bug in the parser')\n")
    (package / "errors.py").write_text("class PyPdfError(Exception): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UnreadableError, match="cannot be parsed: RuntimeError: bug in the parser"):
        read(tmp_path, "a.pdf", pdf("x"))


def test_a_missing_parser_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.loaders.find_spec", lambda name: None)
    (tmp_path / "a.pdf").write_bytes(pdf("x"))
    (tmp_path / "b.md").write_text("text")
    report = ingest(KnowledgeBase(connect(tmp_path / "kb"), "finance", ToyEmbedder()), [tmp_path / "a.pdf", tmp_path / "b.md"])
    assert report.added == ("b.md",)
    [(_, reason)] = report.failed
    assert "pypdf" in reason and 'pip install "mdsa-local[docs]"' in reason


def test_what_is_stored_of_files_stays_where_their_parser_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    for name, content in (("a.pdf", pdf("x")), ("b.md", b"text"), ("c.md", b"text of c")):
        (tmp_path / "docs" / name).write_bytes(content)
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", ToyEmbedder())
    ingest(knowledge_base, [tmp_path / "docs"])
    (tmp_path / "docs/c.md").unlink()
    monkeypatch.setattr("mdsa_local.knowledge.loaders.find_spec", lambda name: None)
    report = ingest(knowledge_base, [tmp_path / "docs"], follow_deletes=True, even_all=True)
    assert (report.removed, [document.document for document in knowledge_base.documents()]) == (("c.md",), ["a.pdf", "b.md"])
    assert report.failed[0][1].endswith("; the version from before stays")
    [problem] = check(knowledge_base)
    assert "cannot be used any more" in problem.what and "changed" not in problem.what


def test_all_types_go_into_a_knowledge_base_and_bad_ones_do_not_stop_the_rest(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    contents: dict[str, bytes] = {
        "a.md": b"# A\nalpha", "b.txt": b"beta", "c.html": b"<h1>C</h1><p>gamma", "d.pdf": pdf("delta"), "e.docx": docx(), "f.csv": b"n\nepsilon\n",
        "g.json": b'{"text": "zeta"}', "h.jsonl": b'{"text": "eta"}\n', "bad.pdf": b"no", "bad.docx": b"no", "bad.json": b"no", "bad.txt": b"\0",
    }  # fmt: skip
    for name, content in contents.items():
        (docs / name).write_bytes(content)
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", ToyEmbedder())
    report = ingest(knowledge_base, [docs])
    assert sorted(Path(path).name for path, _ in report.failed) == ["bad.docx", "bad.json", "bad.pdf", "bad.txt"]
    assert sorted(report.added) == sorted(name for name in contents if not name.startswith("bad"))
    assert sorted(ingest(knowledge_base, [docs]).unchanged) == sorted(report.added)
    [vector] = knowledge_base.embedder.encode(["delta"])
    assert knowledge_base.search(vector, "delta", 1)[0].title == "d > page 1"


@pytest.mark.parametrize(
    "name", ["..md", "a'; DROP TABLE x; --.txt", "new\nline.md", "\x1b[31mred.md", "a#1.md", "%2e%2e%2fx.txt", "..\\..\\x.txt", "con .md"]
)
def test_no_name_of_a_file_does_harm(tmp_path: Path, name: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / name).write_text("some words")
    before = set(tmp_path.rglob("*")) | {tmp_path / "kb"}
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", ToyEmbedder())
    hidden = name.startswith(".")
    assert ingest(knowledge_base, [docs]).added == (() if hidden else (name,))
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "kb")} <= before
    if not hidden:
        assert knowledge_base.delete(name)
        assert knowledge_base.documents() == []


def test_every_suffix_has_a_loader() -> None:
    assert {family(Path(f"x{suffix.upper()}")) for suffix in LOADERS} == {"text", "html", "pdf", "docx", "rows", "json", "jsonl"}
    with pytest.raises(UnreadableError, match=r"not a supported type: \.exe .*\.pdf"):
        family(Path("x.exe"))


def test_lines_that_are_no_objects_are_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a"\n{"text": "good"}\n[1, 2]\n' + "broken\n" * 20 + '{"text": "last"}')
    knowledge_base = KnowledgeBase(connect(tmp_path / "kb"), "finance", ToyEmbedder())
    report = ingest(knowledge_base, [tmp_path / "a.jsonl"])
    assert (report.added, report.failed) == (("a.jsonl",), ())
    remarks = [remark for path, remark in report.remarks if path == str(tmp_path / "a.jsonl")]
    assert remarks[0].startswith("line 1: not valid JSON") and remarks[0].endswith(": passed over")
    assert (remarks[1], len(remarks), remarks[-1]) == ("line 3: no JSON object: passed over", 11, "12 more lines passed over")
    [vector] = knowledge_base.embedder.encode(["x"])
    assert {passage.text for passage in knowledge_base.search(vector, "x", 9)} == {"good", "last"}
    assert ingest(knowledge_base, [tmp_path / "a.jsonl"]) == Report(unchanged=("a.jsonl",))


def test_the_fields_of_a_record_say_what_they_are_of(tmp_path: Path) -> None:
    records = [{"name": "printer", "ip": "192.168.7.20"}, {"title": "Cards", "text": "Freeze it."}]
    assert texts(read(tmp_path, "a.json", json.dumps(records))) == [("a > printer", "name: printer\nip: 192.168.7.20"), ("a > Cards", "Freeze it.")]


def table(*rows: str) -> str:
    return "<table>\n" + "".join(f"  <tr>\n    {row}\n  </tr>\n" for row in rows) + "</table>"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            table("<th>Portion</th>\n <th>kcal</th>", "<td>1 piece</td>\n <td>620</td>", "<td>whole</td><td>3,720</td>"),
            "Portion: 1 piece; kcal: 620\n\nPortion: whole; kcal: 3,720",
        ),
        ("<table><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>1</td><td></td></tr></tbody></table>", "A: 1"),
        ("<table>Before <td>1</td><td>2</td></table>", "Before | 1 | 2"),
        # Where columns are not one below the other nothing is named.
        (table("<th>Plan</th><th colspan=2>Price</th>", "<td>Basic</td><td>5</td>"), "Plan | Price\n\nBasic | 5"),
        (table("<th><p>Plan</p></th><th>Price</th><th>Time</th>", "<td>Basic</td><td>5</td>"), "Plan | Price | Time\n\nBasic | 5"),
        (table("<th>A</th><th>B</th>", "<th>3</th><th>4</th>", "<td>1</td><td>2</td>"), "A: 3; B: 4\n\nA: 1; B: 2"),
        (table("<td>a</td><td>b</td>", "<th>c</th><th>d</th>", "<td>1</td><td>2</td>"), "a | b\n\nc | d\n\n1 | 2"),
        (
            table("<th>A</th><th>B</th>", f"<td>1</td><td>{table('<td>x</td><td>y</td>')}</td>", "<td>5</td><td>6</td>"),
            "A | B\n\n1 |\n\nx | y\n\nA: 5; B: 6",
        ),
        (table("<th>A</th><th>B</th>", "<td>1</td><td>2</td>") + table("<td>3</td><td>4</td>"), "A: 1; B: 2\n\n3 | 4"),
    ],
)
def test_rows_of_a_table_say_what_their_cells_are(tmp_path: Path, page: str, said: str) -> None:
    assert texts(read(tmp_path, "l.html", page)) == [("l", said)]


def test_rows_of_a_word_table_with_a_repeated_heading_say_what_their_cells_are(tmp_path: Path) -> None:
    from docx import Document
    from docx.oxml import OxmlElement

    def made(repeated: bool) -> bytes:
        document = Document()
        added = document.add_table(3, 3)
        rows = [("Job", "Torque", "Tool"), ("Plug", "30 Nm", "19 mm"), ("all dry", "", "")]
        for row, cells in zip(added.rows, rows, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
        added.cell(2, 0).merge(added.cell(2, 2))
        if repeated:
            added.rows[0]._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))
        out = BytesIO()
        document.save(out)
        return out.getvalue()

    assert texts(read(tmp_path, "a.docx", made(True)))[0][1] == "Job: Plug; Torque: 30 Nm; Tool: 19 mm\nall dry"
    assert texts(read(tmp_path, "b.docx", made(False)))[0][1] == "Job | Torque | Tool\nPlug | 30 Nm | 19 mm\nall dry"
