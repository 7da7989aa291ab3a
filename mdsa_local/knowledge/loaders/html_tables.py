"""Tables of HTML: what a row says, with the cells that reach into it from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mdsa_local.knowledge.loaders.lists import whole

# Columns and rows that a cell may span, as browsers have it; rows of headings; and how many cells, of how many characters, a row has from above.
MOST_COLUMNS, MOST_ROWS, MOST_HEADINGS, MOST_ABOVE, MOST_ABOVE_CHARS = 1000, 65534, 4, 50, 1000
# Of a cell with paragraphs: a longer one is not the cell of a row but a part of the page.
MOST_CELL_CHARS = 400
# Of a cell in which something is shown that has no words.
UNTOLD = "?"


@dataclass(slots=True)
class Cell:
    """A cell, of its tag ``kind``: empty for text before the first cell of a row."""

    kind: str
    columns: int = 1
    rows: int = 1
    # The blocks of text in it with their marks; whether the next is the first of an item, and whether one is set as it stands.
    blocks: list[tuple[str, str]] = field(default_factory=list)
    item: bool = False
    kept: bool = False
    # What is shown in it beside text: what that is called, empty where nothing tells.
    signs: list[str] = field(default_factory=list)

    def line(self) -> str:
        """All in one line: what goes on with a sentence behind a blank, else behind a semicolon."""
        parts: list[str] = []
        for _, text in self.blocks:
            broken = False
            for part in filter(None, (" ".join(line.split()) for line in text.split("\n"))):
                if parts:
                    goes_on = self.kind == "th" or parts[-1][-1] in ".,;:!?" or part[0] == "(" or (broken and part[0].islower())
                    parts.append(" " if goes_on else "; ")
                parts.append(part)
                broken = True
        return "".join(parts)

    def sign(self) -> str:
        """What it says where it has no text."""
        return ", ".join(dict.fromkeys(filter(None, self.signs))) or (UNTOLD if self.signs and self.kind == "td" else "")

    def long(self) -> bool:
        """Whether it is a part of the page rather than of a row."""
        return self.kept or (len(self.blocks) > 1 and sum(len(text) for _, text in self.blocks) > MOST_CELL_CHARS)


@dataclass(slots=True)
class Table:
    """A table that is being read."""

    # What names the columns: empty before the first row, None where nothing does; the rows that do, and whether the next may be one more of them.
    names: list[str] | None = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    spanned: bool = False
    # By column what the rows above say in those below: text, columns, and rows that are left.
    above: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    # Of the row that is open its cells, and whether something in it (a heading, a table) has parted it.
    cells: list[Cell] = field(default_factory=list)
    open: bool = False
    parted: bool = False
    # Of the rows below the names where their blocks are, the names and the cells; whether they are all of these rows.
    body: list[tuple[int, list[str], list[str]]] = field(default_factory=list)
    plain: bool = True

    def placed(self, cells: Sequence[Cell]) -> tuple[list[tuple[int, int, str]], int]:
        """A row with what reaches into it from above, each with its column and how many it spans; and how many columns the row has."""
        row: list[tuple[int, int, str]] = []
        above, self.above = self.above, {}
        column = 0
        for cell in (*cells, None):
            while column in above:
                text, columns, rows = above.pop(column)
                row.append((column, columns, text))
                if rows > 1:
                    self.above[column] = (text, columns, rows - 1)
                column += columns
            if cell is not None:
                text = cell.line() or (cell.sign() if self._is_named(column) else "")
                row.append((column, cell.columns, text))
                if cell.rows > 1 and len(self.above) < MOST_ABOVE:
                    room = MOST_ABOVE_CHARS - sum(len(other) for other, _, _ in self.above.values())
                    self.above[column] = (text if len(text) <= room else "", cell.columns, cell.rows - 1)
                column += cell.columns
        self.above |= {at: (text, columns, rows - 1) for at, (text, columns, rows) in above.items() if rows > 1 and at >= column}
        return row, column

    def _is_named(self, column: int) -> bool:
        """Whether it is told what stands in a column; without that, what only is shown there says nothing."""
        names = self.names or []
        return column < len(names) and bool(names[column])


def span(value: str | None, most: int) -> int:
    """How many columns or rows a cell spans; 0 is all that are left."""
    number = whole(value)
    return 1 if number is None or number < 0 else min(number or most, most)
