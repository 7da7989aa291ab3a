"""CSV and TSV: each row becomes a line ``column: value; column: value``, so that a passage says what its numbers are."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from mdsa_local.knowledge.loaders import LINE, Section, UnreadableError, named
from mdsa_local.knowledge.loaders.text import lines

ROWS = 200
SECTION_CHARS = 1 << 20
LINE_CHARS = 16 << 20
NAME_CHARS = 200
# By the first lines the delimiter is found; in doubt it is the first of these.
SAMPLE_LINES, SAMPLE_CHARS = 20, 10_000
DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r"""["']?sep=(.)["']?\s*""", re.IGNORECASE)


def read(path: Path) -> Iterator[Section]:
    """Sections of up to 200 rows that are not empty, numbered as in the file. The first row names the columns, after one that tells the delimiter, as
    Excel writes it (``sep=;``)."""
    source = _lines(path)
    sample = list(islice(source, SAMPLE_LINES))
    told = _SEPARATOR.fullmatch(sample[0]) if sample else None
    # Of a cell; else it is 131,072 characters. It is one for the whole program.
    limit = csv.field_size_limit(LINE_CHARS)
    reader = csv.reader(chain(sample[1:] if told else sample, source), _dialect(path, told[1] if told else "", sample))
    try:
        header = [_short(name) for name in next(reader, [])]
        numbered = ((number, line) for number, row in enumerate(reader, 1) if (line := named(header, row)))
        for rows in _grouped(numbered):
            yield Section("".join(f"{line}\n\n" for _, line in rows), rows=tuple(number for number, _ in rows))
    except csv.Error as error:
        raise UnreadableError(f"cannot be read as a table: line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _lines(path: Path) -> Iterator[str]:
    """The lines of the file; what older programs of Apple write ends them with carriage returns alone."""
    for line in lines(path, LINE_CHARS):
        if "\r" in line.rstrip("\r\n"):
            yield from LINE.findall(line)
        else:
            yield line


def _short(name: str) -> str:
    """The name of a column, which every row says again."""
    line = " ".join(name.split())
    return line if len(line) <= NAME_CHARS else f"{line[:NAME_CHARS]}…"


def _grouped(rows: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """So many rows at a time as a section takes."""
    group: list[tuple[int, str]] = []
    size = 0
    for number, line in rows:
        group.append((number, line))
        size += len(line)
        if len(group) == ROWS or size > SECTION_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _dialect(path: Path, told: str, sample: list[str]) -> type[csv.Dialect]:
    """Where nothing tells the delimiter it is the one that cuts most of the first lines into as many cells, more than one, as their header has."""
    if not told and path.suffix.lower() == ".tsv":
        return csv.excel_tab
    texts = [line for at, line in enumerate(sample) if line.strip() and (at == 0 or len(line) <= SAMPLE_CHARS)]

    def fits(delimiter: str) -> tuple[int, int]:
        with suppress(csv.Error):
            counts = [len(row) for row in csv.reader(texts, delimiter=delimiter) if row]
            return (sum(count == counts[0] for count in counts), counts[0]) if counts and counts[0] > 1 else (0, 0)
        return 0, 0

    found = told or max(DELIMITERS, key=fits)
    return type("Found", (csv.excel,), {"delimiter": found})
