"""Tables in the text of a PDF page: where cells stand in columns, each row becomes a line that says what its cells are.

A PDF knows no tables, only words at places. What is certain is taken for one: three neighbouring rows or more whose cells are short and stand one
below the other. All other text stays as it is, letter by letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from mdsa_local.knowledge.loaders import named
from mdsa_local.knowledge.loaders.pdf_pieces import Piece

# All in sizes of the letters. From this gap on, words on a line are two cells; a blank of a justified line is seldom wider.
GAP = 0.8
# A line of a cell is at most so far below the one before, and a row below the row before.
LINE, ROW = 1.45, 4.5
# How far edges that are aligned may be apart, and baselines of a line.
ALIGNED, LEVEL = 0.35, 0.35
# How many of the cells of a column have to be aligned.
IN_COLUMN = 0.75
MOST_COLUMNS, MOST_LINES, MOST_CHARS = 20, 8, 300
# A column whose lines are mostly longer than this and reach its right edge is one of prose; names in a table without headings are shorter.
PROSE_CHARS, NAME_CHARS = 22, 40
_MARK = re.compile(r"[•‣●○■▪◦–—*·\-\uf0b7]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)]|\(?\d{1,3}\)?")
_LEADERS = re.compile(r"(?:\.\s?){4}|…{2}|_{4}")
_FIXED = re.compile("courier|mon[ol]|consol|typewriter|menlo|cmtt|lmtt", re.IGNORECASE)


# Words that stand beside each other without a gap, of one cell or of prose.
_Line = Piece
_Cell = list[_Line]
_Row = list[_Cell]
_Span = tuple[float, float]


@dataclass(slots=True)
class _Table:
    """Neighbouring rows, each with the columns of its cells; none for a row that is one line between the others."""

    columns: list[_Span] = field(default_factory=list)
    rows: list[tuple[_Row, list[int]]] = field(default_factory=list)


class Tables:
    """Tells the tables of the pages of a file, in order: one that goes on over a page keeps the names of its columns."""

    def __init__(self) -> None:
        self._names: list[str] | None = None
        self._columns: list[_Span] = []

    def told(self, text: str, pieces: Sequence[Piece]) -> str:
        """The text of a page with its tables told row by row."""
        rows = _rows(_lines(pieces))
        before, self._columns = self._columns, []
        parts, at = list[str](), 0
        for table in _tables(rows) if rows else ():
            first, last = table.rows[0][0], table.rows[-1][0]
            goes_on = first is rows[0] or (len(rows) > 1 and first is rows[1])
            told = self._lines_of(text, table, before if goes_on else [])
            if told is None:
                continue
            start, end = first[0][0].start, max(cell[-1].end for cell in last)
            parts += [_apart(text[at:start]), *(f"{line}\n\n" for line in told if line)]
            at = end + len(text[end:]) - len(text[end:].lstrip())
            # A line below it may be the number of the page.
            self._columns = table.columns if last is rows[-1] or (len(rows) > 1 and last is rows[-2]) else []
        return "".join([*parts, text[at:]])

    def _lines_of(self, text: str, table: _Table, before: list[_Span]) -> list[str] | None:
        """The lines of a table; None for what only looks like one. ``before`` are the columns of a table that may go on here."""
        cells = [[_told(text, cell) for cell in row] for row, _ in table.rows]
        goes_on = bool(before) and len(before) == len(table.columns) > 1 and all(_same(*pair) for pair in zip(before, table.columns, strict=True))
        full = [(row, places, said) for (row, places), said in zip(table.rows, cells, strict=True) if places]
        if len(full) < (1 if goes_on and len(before) > 2 else 3) or not _is_table(table, full):
            return None
        width = len(table.columns)
        grid = [_spread(said, places, width) for _, places, said in full]
        repeated = goes_on and self._names == grid[0]
        names = grid[0] if repeated or (len(full) > 2 and _is_heading(full, grid)) else None
        named_here = names is not None
        if names is None and goes_on:
            names = self._names
        if names is None and (any(_FIXED.search(line.font) for row, _, _ in full for cell in row for line in cell) or not _is_plain(grid)):
            # Aligned lines of a program are one, and what is said twice by its place only.
            return None
        self._names = names
        lines = [_spread(said, places, width) if places else said for (_, places), said in zip(table.rows, cells, strict=True)]
        wholes = [not places for _, places in table.rows]
        told = [
            " ".join(line) if whole else named(names, line) if names else _joined(line)
            for line, whole in list(zip(lines, wholes, strict=True))[named_here:]
        ]
        # Of a column without cells nothing else would say the name.
        unsaid = named_here and any(name and not any(below) for name, *below in zip(*grid, strict=True))
        return [_joined(grid[0]), *told] if unsaid else told


def _apart(text: str) -> str:
    """``text`` before a table, with a blank line at its end."""
    return f"{text.rstrip()}\n\n" if text.strip() else text


def _told(text: str, cell: _Cell) -> str:
    return " ".join(" ".join(text[line.start : line.end].split()) for line in cell)


def _spread(said: Sequence[str], places: Sequence[int], width: int) -> list[str]:
    out = [""] * width
    for place, cell in zip(places, said, strict=True):
        out[place] = cell
    return out


def _joined(cells: Sequence[str]) -> str:
    """A row whose columns have no names: ``Weight: 480 kg`` for two, else with bars; a cell with a colon at its end names the next."""
    told = [cell for cell in cells if cell]
    if len(cells) == 2 == len(told):
        return f"{told[0].rstrip(':').rstrip()}: {told[1]}"
    return "".join(cell + (" " if cell.endswith(":") else " | ") for cell in told[:-1]) + told[-1]


def _lines(pieces: Sequence[Piece]) -> list[_Line]:
    """Pieces beside each other put together where no gap is between them."""
    out: list[_Line] = []
    for piece in pieces:
        last = out[-1] if out else None
        size = max(piece.size, last.size) if last else 0.0
        beside = (
            last and last.size and piece.size and abs(piece.base - last.base) <= LEVEL * size and -0.5 * size <= piece.left - last.right < GAP * size
        )
        if last and beside:
            last.end, last.right = piece.end, max(last.right, piece.right)
        else:
            out.append(replace(piece))
    return out


def _rows(lines: Sequence[_Line]) -> list[_Row]:
    """Lines in the order of the text, as cells beside each other. A cell may have more lines than its neighbours."""
    rows: list[_Row] = []
    for line in lines:
        row = rows[-1] if rows else None
        # Costs nothing where it is not so; a row with more cells is no table's, and a page may have any number.
        right = row is not None and len(row) <= MOST_COLUMNS and line.left > row[-1][-1].right
        own = _of_one_row(row[0], line) if row and right and len(row) == 1 else 0
        if row and own and not _is_paragraph(row[0]) and _beside([row[0][-own:]], line):
            # What stands above the first cell is not of it.
            above = [row[0][:-own]] if own < len(row[0]) else []
            rows[-1:] = [each for each in (above, [row[0][-own:], [line]]) if each]
        elif row and right and not own and _beside(row, line):
            row.append([line])
        elif row and _goes_on(row[-1], line):
            row[-1].append(line)
        else:
            rows.append([[line]])
    return rows


def _beside(row: _Row, line: _Line) -> bool:
    """Whether a line begins the next cell of a row: right of the last one, or some lines higher where that cell has more."""
    right, last = max(each.right for each in row[-1]), row[-1][-1]
    top, bottom = max(cell[0].base for cell in row), min(cell[-1].base for cell in row)
    low = bottom - LEVEL * line.size
    return bool(line.size and last.size) and line.left > right + 0.1 * line.size and low <= line.base <= top + 2.5 * line.size


def _of_one_row(cell: _Cell, line: _Line) -> int:
    """How many of the last lines of the first cell belong to the row whose next cell begins with ``line``: from the one at its height, or as many
    above it as below it."""
    level = [at for at, each in enumerate(cell) if abs(each.base - line.base) <= LEVEL * line.size]
    below = sum(each.base < line.base for each in cell)
    return len(cell) - level[0] if level else min(2 * below, len(cell)) or len(cell)


def _is_paragraph(cell: _Cell) -> bool:
    """Whether a cell is prose that a table may stand beside."""
    return len(cell) > 3 and sum(line.end - line.start for line in cell) > 30 * len(cell)


def _goes_on(cell: _Cell, line: _Line) -> bool:
    """Whether a line is the next one of a cell."""
    last, size = cell[-1], line.size
    if not size or abs(size - last.size) > 0.1 * size or line.font != last.font or not 0.6 * size <= last.base - line.base <= LINE * size:
        return False
    edges = ((last.left, line.left), (last.right, line.right), (last.left + last.right, line.left + line.right))
    return any(abs(one - other) <= ALIGNED * size for one, other in edges)


def _edges(cell: _Cell) -> _Span:
    return min(line.left for line in cell), max(line.right for line in cell)


def _tabular(row: _Row) -> bool:
    chars = [sum(line.end - line.start for line in cell) for cell in row]
    return 1 < len(row) <= MOST_COLUMNS and max(map(len, row)) <= MOST_LINES and max(chars) <= MOST_CHARS


def _drop(above: _Row, below: _Row) -> float:
    """From the last line of a row to the first of the next."""
    return min(cell[-1].base for cell in above) - max(cell[0].base for cell in below)


def _tables(rows: Sequence[_Row]) -> list[_Table]:
    """Neighbouring rows that agree in their columns."""
    if all(len(row) == 1 for row in rows):
        return []
    table = _Table()
    tables = [table]
    waiting: _Row | None = None
    for row in rows:
        above = waiting or (table.rows[-1][0] if table.rows else None)
        size = max(row[0][0].size, 1.0)
        near = above is not None and 0 < _drop(above, row) <= ROW * size
        if not near:
            table, waiting = _Table(), None
            tables.append(table)
        if not _tabular(row):
            if table.rows and waiting is None and _continues(table, row):
                table.rows[-1] = (_with(table.rows[-1][0], table.rows[-1][1], table, row), table.rows[-1][1])
            elif table.rows and waiting is None and _between(table, row):
                waiting = row
            else:
                table, waiting = _Table(), None
                tables.append(table)
            continue
        places = _places(table.columns, row, first=len(table.rows) == 1)
        again = waiting is not None and _font(row) == _font(table.rows[0][0]) != _font(table.rows[-1][0])
        if places is None or again:
            table, waiting = _Table(), None
            tables.append(table)
            places = list(map(_edges, row))
        if waiting is not None:
            table.rows.append((waiting, []))
            waiting = None
        _add(table, row, places)
    return [each for each in map(_trimmed, tables) if each.rows]


def _font(row: _Row) -> str:
    fonts = {line.font for cell in row for line in cell}
    return fonts.pop() if len(fonts) == 1 else ""


def _places(columns: Sequence[_Span], row: _Row, *, first: bool) -> list[_Span] | None:
    """For each cell the column it stands in, itself where it stands in none; None where the row has other columns. Below the ``first`` row, which may
    have its headings elsewhere, one cell has to stand in a column, else two."""
    found: list[_Span] = []
    for cell in row:
        left, right = _edges(cell)
        tolerance = 0.1 * cell[0].size
        hit = [column for column in columns if left < column[1] - tolerance and right > column[0] + tolerance]
        if len(hit) > 1:
            return None
        found.append(hit[0] if hit else (left, right))
    known = len({*found} & {*columns})
    return found if len({*found}) == len(row) and known >= min(1 if first else 2, len(columns)) else None


def _add(table: _Table, row: _Row, places: Sequence[_Span]) -> None:
    """Add a row; its cells may widen columns and bring new ones."""
    cells = dict(zip(places, map(_edges, row), strict=True))
    spans = {span: (min(span[0], left), max(span[1], right)) for span, (left, right) in cells.items()}
    columns = sorted({*table.columns, *places})
    if len(columns) > len(table.columns):
        moved = {table.columns.index(span): at for at, span in enumerate(columns) if span in table.columns}
        table.rows = [(before, [moved[place] for place in old]) for before, old in table.rows]
    table.columns = [spans.get(span, span) for span in columns]
    table.rows.append((row, [columns.index(place) for place in places]))


def _continues(table: _Table, row: _Row) -> bool:
    """Whether a lone line below a row is the next line of one of its cells: not of the first, close, and not a number."""
    places = _places_alone(table, row)
    last, own = table.rows[-1]
    if len(row[0]) > 3 or not own or len(places) != 1 or places[0] == 0 or places[0] not in own:
        return False
    cell = last[own.index(places[0])]
    return _goes_on(cell, row[0][0]) and 0 in own


def _places_alone(table: _Table, row: _Row) -> list[int]:
    left, right = _edges(row[0])
    return [at for at, column in enumerate(table.columns) if left < column[1] and right > column[0]]


def _with(row: _Row, own: Sequence[int], table: _Table, line: _Row) -> _Row:
    at = own.index(_places_alone(table, line)[0])
    return [[*cell, *line[0]] if place == at else cell for place, cell in enumerate(row)]


def _between(table: _Table, row: _Row) -> bool:
    """Whether a lone line may stand between rows, such as the name of a group."""
    left, right = _edges(row[0]) if len(row) == 1 else (0.0, 0.0)
    short = len(row) == 1 and len(row[0]) == 1 and row[0][0].end - row[0][0].start <= 60
    size = row[0][0].size
    return short and left >= table.columns[0][0] - size and right <= table.columns[-1][1] + size


def _trimmed(table: _Table) -> _Table:
    """Without rows at the top that have far fewer cells than the table has columns, such as a title with a date beside it."""
    rows = list(table.rows)
    while rows and len(rows[0][1]) < len(table.columns) - 1:
        rows.pop(0)
    if len(rows) > 1:
        rows[0] = (rows[0][0], _above([places for _, places in rows]))
    # Prose beside the first row is none of it.
    while len(rows) > 1 and len(rows[0][1]) > 1 and not any(rows[0][1][0] in places for _, places in rows[1:]):
        rows[0] = (rows[0][0][1:], rows[0][1][1:])
    used = sorted({place for _, places in rows for place in places})
    spans = [[_edges(row[places.index(at)]) for row, places in rows if at in places] for at in used]
    columns = [(min(left for left, _ in each), max(right for _, right in each)) for each in spans]
    return _Table(columns, [(row, [used.index(place) for place in places]) for row, places in rows])


def _above(rows: Sequence[Sequence[int]]) -> list[int]:
    """The columns of the first row: a heading at the left of a column of numbers set to the right stands above none of them, yet names them."""
    below = {place for places in rows[1:] for place in places}
    out = list(rows[0])
    for at, place in enumerate(out):
        beside = [near for near in (place + 1, place - 1) if near in below and near not in rows[0]]
        if place not in below and beside:
            out[at] = beside[0]
    return out if len({*out}) == len(out) else list(rows[0])


def _same(one: _Span, other: _Span) -> bool:
    """Whether columns of two pages are the same: one lies within the other, or they overlap by half."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common > 0.5 * min(one[1] - one[0], other[1] - other[0])


_Full = Sequence[tuple[_Row, list[int], list[str]]]


def _is_table(table: _Table, rows: _Full) -> bool:
    """Whether rows that agree are a table and not prose, a list or a table of contents."""
    width = len(table.columns)
    if width < 2 or sum(bool(_LEADERS.search(" ".join(said))) for _, _, said in rows) > len(rows) / 4:
        return False
    by_column = [[(row[places.index(at)], said[places.index(at)]) for row, places, said in rows if at in places] for at in range(width)]
    if width == 2 and all(_MARK.fullmatch(said) for _, said in by_column[0]):
        return False
    if any(len(cells) > 2 and not _aligned([cell for cell, _ in cells[1:]]) for cells in by_column):
        return False
    filled = sum(len(places) for _, places, _ in rows) / (width * len(rows))
    prose = sum(_is_prose(cells, column) for cells, column in zip(by_column, table.columns, strict=True))
    return filled >= 0.5 and prose < min(2, width) and not _is_prose(by_column[0], table.columns[0])


def _aligned(cells: Sequence[_Cell]) -> bool:
    """Whether most cells begin, end or are centred at one place."""
    size = cells[0][0].size
    lines = [_edges(cell) for cell in cells]
    for edges in ([left for left, _ in lines], [right for _, right in lines], [(left + right) / 2 for left, right in lines]):
        middle = median(edges)
        if sum(abs(edge - middle) <= ALIGNED * size for edge in edges) >= IN_COLUMN * len(edges):
            return True
    return False


def _is_prose(cells: Sequence[tuple[_Cell, str]], column: _Span) -> bool:
    """Whether the lines of a column are long and mostly fill it."""
    lines = [line for cell, _ in cells for line in cell]
    long = [line for line in lines if line.end - line.start > PROSE_CHARS]
    full = [line for line in long if line.right - line.left >= 0.85 * (column[1] - column[0])]
    return len(long) >= 0.6 * len(lines) and len(full) >= 0.5 * len(lines)


def _is_heading(rows: _Full, grid: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns: it is set otherwise than the rows below, it has no numbers where they have, or it lacks the first
    cell, which they have."""
    first, body = grid[0], grid[1:]
    if not all(first[1:]) or any(len(name) > 60 or name.endswith(":") for name in first):
        return False
    if not first[0]:
        return len(first) > 2 and sum(bool(row[0]) for row in body) >= 0.9 * len(body)
    fonts = [{row[places.index(at)][0].font for row, places, _ in rows[1:] if at in places} for at in range(1, len(first))]
    if all(cell[0].font not in below for cell, below in zip(rows[0][0][1:], fonts, strict=True)):
        return True
    if any(re.search(r"\d", name) for name in first):
        return False
    return any(
        len(said := [row[at] for row in body if row[at]]) > 1 and sum(bool(re.search(r"\d", cell)) for cell in said) >= 0.8 * len(said)
        for at in range(len(first))
    )


def _is_plain(grid: Sequence[Sequence[str]]) -> bool:
    """Whether rows without headings can be told: of two columns the first has short names, and the second does not name things itself."""
    if len(grid[0]) > 2:
        return True
    names, values = [row[0] for row in grid], [row[1] for row in grid]
    lone = sum(not all(row) for row in grid)
    named_there = sum(bool(re.search(r"[^\W\d]:(\s|$)", value)) for value in values)
    numbers = sum(bool(re.fullmatch(r"[\W\d]+", name)) for name in names)
    return not lone and max(map(len, names)) <= NAME_CHARS and named_there < len(values) / 2 and numbers < len(names)
