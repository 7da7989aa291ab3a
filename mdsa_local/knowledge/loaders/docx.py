"""The text of Word files (DOCX), by python-docx: headings become titles, list items and table rows lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS, Section, UnreadableError, below, headed, named, titled
from mdsa_local.knowledge.loaders.numbering import Numbering

# Text and markup of a book of 2,000 pages are about 20 MB; more is a bomb or not a document.
UNPACKED_LIMIT = 100 << 20
# What stands around text that is part of the document: tracked insertions, content controls, fields. python-docx does not look inside.
_AROUND = ("ins", "moveTo", "sdt", "sdtContent", "smartTag", "fldSimple", "customXml")
# How a property of a run says that it is not so.
_OFF = ("0", "false", "off")
_CONTENTS = re.compile(r"toc \d", re.IGNORECASE)
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)


def read(path: Path) -> Iterator[Section]:
    """A section for each heading; what is below none has the title in the properties, see :func:`~mdsa_local.knowledge.loaders.titled`."""
    _check(path)
    from docx import Document
    from docx.opc.exceptions import OpcError
    from docx.table import Table

    try:
        document = Document(str(path))
    except (OpcError, KeyError, ValueError, BadZipFile) as error:
        raise UnreadableError(f"is damaged or no Word document: {error}") from None
    _unwrap(document.element.body)
    stem = titled(_title(document), path.stem)
    numbering = Numbering(document)
    outline: dict[int, str] = {}
    blocks: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            blocks.append("\n".join(_rows(block)))
            continue
        style = block.style
        name = (style.name if style is not None else "") or ""
        match = _HEADING.match(name)
        if (match or name == "Title") and len(block.text) <= MOST_TITLE_CHARS:
            yield from _section(blocks, headed(stem, outline))
            numbering.end()
            blocks, outline = [], below(outline, int(match[1]) if match else 0, " ".join(block.text.split()))
        elif not _CONTENTS.fullmatch(name) and (text := numbering.placed(block, style)):
            blocks.append(text)
    yield from _section(blocks, headed(stem, outline))


def _title(document: Any) -> object:
    try:
        return document.core_properties.title
    except (AttributeError, ValueError):
        # What a file tells of itself may be damaged where its text is not.
        return None


def _unwrap(body: Any) -> None:
    """Put what is inside of :data:`_AROUND` in its place; a table of contents, what a control shows as long as it is empty and what is struck out
    are left out."""
    word = f"{{{body.nsmap['w']}}}"
    for control in list(body.iter(f"{word}sdt")):
        about = control.find(f"{word}sdtPr")
        gallery = about.find(f".//{word}docPartGallery") if about is not None else None
        contents = gallery is not None and gallery.get(f"{word}val") == "Table of Contents"
        if contents or (about is not None and about.find(f"{word}showingPlcHdr") is not None):
            control.getparent().remove(control)
    for element in list(body.iter(*(f"{word}{name}" for name in _AROUND))):
        parent = element.getparent()
        at = parent.index(element)
        parent[at : at + 1] = list(element)
    for run in list(body.iter(f"{word}r")):
        lines = (run.find(f"{word}rPr/{word}{name}") for name in ("strike", "dstrike"))
        if any(line is not None and line.get(f"{word}val") not in _OFF for line in lines):
            run.getparent().remove(run)


def _text(cell: Any) -> str:
    """The text of a cell on one line; a table in it as its rows."""
    blocks = ("; ".join(_rows(block)) if hasattr(block, "rows") else block.text for block in cell.iter_inner_content())
    return " ".join(" ".join(blocks).split())


def _rows(table: Any) -> Iterator[str]:
    """The lines of a table. Where Word repeats its first row on each page, that names the columns, and the others say what their cells are; what is
    merged is said once."""
    cells = [row.cells for row in table.rows]
    texts = {cell._tc: _text(cell) for cell in {cell._tc: cell for row in cells for cell in row}.values()}
    rows = [[texts[cell._tc] for cell in row] for row in cells]
    parts = [len({id(cell._tc) for cell in row}) for row in cells]
    properties = table.rows[0]._tr.trPr if rows else None
    names = properties is not None and properties.find(f"{{{properties.nsmap['w']}}}tblHeader") is not None and parts[0] == len(rows[0]) > 1
    for row, distinct in list(zip(rows, parts, strict=True))[names:]:
        yield named(rows[0], row) if names and distinct == len(rows[0]) == len(row) else " | ".join(dict.fromkeys(row))


def _section(blocks: list[str], title: str) -> Iterator[Section]:
    if blocks:
        yield Section("\n\n".join(blocks) + "\n\n", title)


def _check(path: Path) -> None:
    """Refuse, before anything is unpacked, what would unpack to too much."""
    try:
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith((".xml", ".rels")))
    except BadZipFile as error:
        raise UnreadableError(f"is damaged or no Word document: {error}") from None
    if size > UNPACKED_LIMIT:
        raise UnreadableError(f"unpacks to {size >> 20} MB of markup, more than the {UNPACKED_LIMIT >> 20} MB allowed")
