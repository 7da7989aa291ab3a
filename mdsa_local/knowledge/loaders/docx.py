"""The text of Word files (DOCX), by python-docx: headings become titles, list items and table rows lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS, Section, UnreadableError, below, headed, named, titled
from mdsa_local.knowledge.loaders.blanks import filled
from mdsa_local.knowledge.loaders.docx_parts import settle
from mdsa_local.knowledge.loaders.docx_styles import Styles
from mdsa_local.knowledge.loaders.numbering import Numbering

# Text and markup of a book of 2,000 pages are about 20 MB; more is a bomb or not a document.
UNPACKED_LIMIT = 100 << 20
_DIGIT = re.compile(r"\d")
_CONTENTS = re.compile(r"toc \d", re.IGNORECASE)


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
    styles = Styles(document)
    settle(document, styles)
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
        level = styles.level(block._p)
        if level is not None and len(block.text) <= MOST_TITLE_CHARS:
            yield from _section(blocks, headed(stem, outline))
            numbering.end()
            blocks, outline = [], below(outline, level, " ".join(block.text.split()))
        elif not _CONTENTS.fullmatch(name) and (text := numbering.placed(block, style)):
            blocks.append(text)
    yield from _section(blocks, headed(stem, outline))


def _title(document: Any) -> object:
    try:
        return document.core_properties.title
    except (AttributeError, ValueError):
        # What a file tells of itself may be damaged where its text is not.
        return None


def _text(cell: Any) -> str:
    """The text of a cell on one line; a table in it as its rows."""
    blocks = ("; ".join(_rows(block)) if hasattr(block, "rows") else block.text for block in cell.iter_inner_content())
    return " ".join(" ".join(blocks).split())


def _rows(table: Any) -> Iterator[str]:
    """The lines of a table. Where the first row names the columns, the others say what their cells are; what is merged is said once."""
    grid = _grid(table)
    cells = [list({cell._tc: cell for cell in row}.values()) for row in grid]
    texts = {cell._tc: _text(cell) for cell in {cell._tc: cell for row in cells for cell in row}.values()}
    rows = [[texts[cell._tc] for cell in row] for row in cells]
    width = len(grid[0]) if grid else 0
    whole = [len(places) == len(row) == width for places, row in zip(grid, rows, strict=True)]
    names = (
        width > 1 and whole[0] and (_is_repeated(table) or _is_bold(cells) or _is_head([row for row, each in zip(rows, whole, strict=True) if each]))
    )
    if names and all(whole):
        rows[1:] = filled(rows[1:])
    for row, each in list(zip(rows, whole, strict=True))[names:]:
        if any(row):
            yield named(rows[0], row) if names and each else " | ".join(row)


def _grid(table: Any) -> list[list[Any]]:
    """The cells of each row, a merged one in all its places. python-docx climbs to where a cell begins, from each row anew."""
    from docx.table import _Cell

    grid: list[list[Any]] = []
    above: dict[int, Any] = {}
    for row in table.rows:
        places: dict[int, Any] = {}
        at = row.grid_cols_before
        for tc in row._tr.tc_lst:
            cell = above.get(at) if tc.vMerge == "continue" else None
            places[at] = cell or _Cell(tc, table)
            at += tc.grid_span
        grid.append([cell for cell in places.values() for _ in range(cell.grid_span)])
        above = places
    return grid


def _is_repeated(table: Any) -> bool:
    """Whether Word repeats the first row on each page."""
    properties = table.rows[0]._tr.trPr
    return properties is not None and properties.find(f"{{{properties.nsmap['w']}}}tblHeader") is not None


def _is_bold(cells: list[list[Any]]) -> bool:
    """Whether all of the first row, of three columns or more, is bold, and of the others none."""
    bold = [[run.bold is True for cell in row for each in cell.paragraphs for run in each.runs if run.text.strip()] for row in cells]
    filled = all(cell.text.strip() for cell in cells[0][1:])
    return len(cells[0]) > 2 and len(bold) > 1 and filled and bool(bold[0]) and all(bold[0]) and not any(row and all(row) for row in bold[1:])


def _is_head(rows: list[list[str]]) -> bool:
    """Whether the first of the rows, of three columns or more, names them though nothing says so: its cells are different words that stand in no row
    below, and a column has numbers alone below it."""
    first, body = rows[0], rows[1:]
    if len(first) < 3 or not all(first) or len({*first}) < len(first) or any(map(_DIGIT.search, first)) or any({*first} & {*row} for row in body):
        return False
    below = ([row[at] for row in body if row[at]] for at in range(len(first)))
    return any(len(said) > 1 and all(map(_DIGIT.search, said)) for said in below)


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
