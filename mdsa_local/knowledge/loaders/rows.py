"""CSV and TSV: each row becomes a line ``column: value; column: value``, so that a passage says what its numbers are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from mdsa_local.knowledge.loaders import Section, UnreadableError, named
from mdsa_local.knowledge.loaders.text import lines

ROWS = 200
SAMPLE_CHARS = 20_000


def read(path: Path) -> Iterator[Section]:
    """Sections of 200 rows that are not empty, numbered as in the file. The first row names the columns."""
    source = lines(path)
    first = next(source, "")
    reader = csv.reader(chain([first], source), _dialect(path, first))
    try:
        header = [" ".join(name.split()) for name in next(reader, [])]
        numbered = ((number, line) for number, row in enumerate(reader, 1) if (line := named(header, row)))
        while rows := list(islice(numbered, ROWS)):
            yield Section("".join(f"{line}\n\n" for _, line in rows), rows=tuple(number for number, _ in rows))
    except csv.Error as error:
        raise UnreadableError(f"cannot be read as a table: line {reader.line_num}: {error}") from None


def _dialect(path: Path, first: str) -> type[csv.Dialect]:
    if path.suffix.lower() == ".tsv":
        return csv.excel_tab
    try:
        found = csv.Sniffer().sniff(first[:SAMPLE_CHARS].rstrip("\n"), delimiters=",;\t|").delimiter
    except csv.Error:
        # One column has no delimiter to be found.
        found = ","
    return type("Found", (csv.excel,), {"delimiter": found})
