"""CSV and TSV: each row becomes a line ``column: value; column: value``, so that a passage says what its numbers are."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

from mdsa_local.knowledge.loaders import LINE, Section, UnreadableError, named
from mdsa_local.knowledge.loaders.blanks import filled
from mdsa_local.knowledge.loaders.text import lines

ROWS = 200
SECTION_CHARS = 1 << 20
LINE_CHARS = 16 << 20
NAME_CHARS = 200
# In a table of more rows, none are left blank for what stands above them: a program wrote it.
MOST_CARRIED = 2000
# Lines above a table, at most.
MOST_TITLES = 4
# By the first lines the delimiter is found; in doubt it is the first of these.
SAMPLE_LINES, SAMPLE_CHARS = 20, 10_000
# So many lines whose quotation marks do not pair are told by their numbers.
MOST_TOLD = 10
DELIMITERS = ",;\t|"
_YEAR = re.compile(r"(?:19|20)\d\d")
_DIGIT = re.compile(r"\d")
# A line up to the first quotation mark that is not doubled.
_UNQUOTED = re.compile(r'[^"]*(?:""[^"]*)*')
_SEPARATOR = re.compile(r"""["']?sep=(.)["']?\s*""", re.IGNORECASE)


def read(path: Path) -> Iterator[Section]:
    """Sections of up to 200 rows that are not empty, numbered as in the file. The first row names the columns, unless it is one like those below;
    rows above it are the title. A line before all may tell the delimiter, as Excel writes it (``sep=;``). Lines whose quotation marks do not pair are
    told at the end."""
    source = _lines(path)
    sample = list(islice(source, SAMPLE_LINES))
    told = _SEPARATOR.fullmatch(sample[0]) if sample else None
    # Of a cell; else it is 131,072 characters. It is one for the whole program.
    limit = csv.field_size_limit(LINE_CHARS)
    unpaired: list[int] = []
    reader = _records(chain(sample[1:] if told else sample, source), _dialect(path, told[1] if told else "", sample), unpaired, 1 if told else 0)
    try:
        head = list(islice(reader, SAMPLE_LINES))
        first = _first(head)
        title = _short("; ".join(cell for row in head[:first] for cell in row if cell.strip()))
        names = head[first] if first < len(head) else []
        whole = _is_data(names, head[first + 1 :])
        header = [""] * len(names) if whole else [_short(name) for name in names]
        rows = chain(head[first if whole else first + 1 :], reader)
        numbered = ((number, line) for number, row in enumerate(_carried(rows), first + 1) if (line := named(header, row)))
        for group in _grouped(numbered):
            yield Section("".join(f"{line}\n\n" for _, line in group), title, rows=tuple(number for number, _ in group))
        if unpaired:
            more = f" and {len(unpaired) - MOST_TOLD:,} more" if len(unpaired) > MOST_TOLD else ""
            places = f"{'lines' if unpaired[1:] else 'line'} {', '.join(map(str, unpaired[:MOST_TOLD]))}{more}"
            yield Section("", remark=f"{places}: quotation marks that do not pair are read as text")
    except csv.Error as error:
        raise UnreadableError(f"cannot be read as a table: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _records(lines: Iterator[str], dialect: type[csv.Dialect], unpaired: list[int], number: int) -> Iterator[list[str]]:
    """The rows of the lines, before which there are ``number``. A cell goes on in the lines below only to a quotation mark that ends it, not to one
    that begins another; else its line is a row of its own, and in ``unpaired`` where its quotation marks are text. Raises :class:`csv.Error`."""
    held, again = list[str](), list[str]()

    def fed() -> Iterator[str]:
        while line := again.pop() if again else next(lines, ""):
            held.append(line)
            yield line

    while True:
        try:
            for row in csv.reader(fed(), dialect, strict=True):
                number += len(held)
                held.clear()
                yield row
            return
        except csv.Error:
            taken = [*held]
            held.clear()
        if len(taken) > 1:
            before = _UNQUOTED.match(taken[-1])
            begins = before is not None and (not before[0] or before[0].endswith(dialect.delimiter))
            if not begins and (whole := _record(taken, dialect)) is not None:
                number += len(taken)
                yield whole
                continue
            again.append(taken.pop())
        for line in taken:
            number += 1
            alone = _record([line], dialect)
            if alone is None:
                unpaired.append(number)
                alone = next(csv.reader([line], dialect, quoting=csv.QUOTE_NONE))
            yield alone


def _record(lines: list[str], dialect: type[csv.Dialect]) -> list[str] | None:
    """The row that the lines are, None where they end within quotation marks."""
    reader = csv.reader([*lines, ""], dialect)
    row = next(reader)
    return row if reader.line_num == len(lines) else None


def _carried(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """The rows, of a table that is not long with what blank cells leave to those above them."""
    held: list[list[str]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += sum(map(len, row))
        if len(held) > MOST_CARRIED or size > SECTION_CHARS:
            return chain(held, rows)
    return iter(filled(held))


def _first(rows: list[list[str]]) -> int:
    """The place of the first row of the table: above it stand empty ones, and titles, which fill the first cell alone."""
    filled = [[bool(cell.strip()) for cell in row] for row in rows]
    first = next((at for at, cells in enumerate(filled) if sum(cells) > 1 or (any(cells) and not cells[0])), 0)
    above = [cells for cells in filled[:first] if any(cells)]
    sure = all(len(cells) > 2 for cells in above) or _is_head(rows[first], [row for row in rows[first + 1 :] if any(row)])
    # Of a table of one column any row may be the first that a delimiter cuts.
    return first if sure and sum(sum(cells) > 1 for cells in filled) > 1 else next((at for at, cells in enumerate(filled) if any(cells)), 0)


def _is_head(names: list[str], rows: list[list[str]]) -> bool:
    """Whether names without digits stand above a column that has them in every row."""
    columns = [[row[at] if at < len(row) else "" for row in rows] for at in range(len(names))]
    return bool(rows) and not any(map(_DIGIT.search, names)) and any(all(map(_DIGIT.search, column)) for column in columns)


def _is_data(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first row is one like those below: it has digits where they have, in the same form. Years and numbers in a row may name columns."""
    cells = [cell.strip() for cell in first]
    numbers = [int(cell) for cell in cells if cell.isdecimal() and len(cell) <= NAME_CHARS]
    counted = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))) and (numbers[0] < 2 or len(numbers) > 2)
    for at, cell in enumerate(cells):
        below = [row[at].strip() for row in rows if at < len(row) and row[at].strip()]
        alike = bool(below) and all(_form(other) == _form(cell) for other in below)
        year = _YEAR.fullmatch(cell) and not all(map(_YEAR.fullmatch, below))
        if alike and _DIGIT.search(cell) and not year and not (counted and cell.isdecimal()):
            return True
    return False


def _form(cell: str) -> str:
    """A cell with ``0`` for any number and ``a`` for any word in it."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", "a", cell))


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

    def cut(delimiter: str) -> list[list[str]]:
        with suppress(csv.Error):
            return [row for row in csv.reader(texts, delimiter=delimiter) if row]
        return []

    def fits(delimiter: str) -> tuple[int, int]:
        counts = [len(row) for row in cut(delimiter)]
        return (sum(count == counts[0] for count in counts), counts[0]) if counts and counts[0] > 1 else (0, 0)

    def titled(delimiter: str) -> bool:
        """Whether a table stands below lines that are not cut."""
        rows = cut(delimiter)
        table = rows[sum(len(row) == 1 for row in rows[:MOST_TITLES]) :]
        return len(table) > 1 and len({*map(len, table)}) == 1 < len(table[0]) and _is_head(table[0], table[1:])

    found = told or max(DELIMITERS, key=fits)
    if not told and fits(found) == (0, 0):
        found = next(filter(titled, DELIMITERS), found)
    return type("Found", (csv.excel,), {"delimiter": found})
