"""Cells of a table that are left blank for what stands above them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from mdsa_local.sentences import is_total


def filled(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows below the names of the columns, the blank cells that they begin with filled with what stands above, where they clearly mean that:

    - more than one row of others has such below it, and none of these sums up, or lacks what all rows with a first cell have;
    - what stands in the first column stands there once;
    - the columns filled so and the next tell the rows apart, and that next one by itself does not: where it does, as a person's name or the number of
      an order, what stands before it may be what not all of them have.
    """
    cells = [[cell.strip() for cell in row] for row in rows]
    body = [row for row in cells if any(row)]
    blanks = [_blanks(row) for row in body]
    depth = max(blanks, default=0)
    if not depth or blanks[0] or min(map(len, body)) <= depth or sum(over == 0 < under for over, under in pairwise(blanks)) < 2:
        return [list(row) for row in rows]
    told = _told(body, depth)
    begun, below = ([row for row, blank in zip(body, blanks, strict=True) if bool(blank) is so] for so in (False, True))
    always = [at for at in range(depth, min(map(len, body))) if all(row[at] for row in begun)]
    clear = (
        _differ([row[0] for row in begun])
        and not _differ([row[depth] for row in body])
        and _differ(["\n".join(row[: depth + 1]) for row in told])
        and all(all(row[at] for at in always) and not is_total(row) for row in below)
    )
    return _told(cells, depth) if clear else [list(row) for row in rows]


def _blanks(row: Sequence[str]) -> int:
    """How many blank cells a row begins with; 0 for one that is blank."""
    return next((at for at, cell in enumerate(row) if cell), 0)


def _told(rows: Sequence[list[str]], depth: int) -> list[list[str]]:
    above: list[str] = []
    found = []
    for row in rows:
        blank = _blanks(row)
        if any(row):
            above = [*above[:blank], *row[blank:depth]]
        found.append([*above[:blank], *row[blank:]])
    return found


def _differ(texts: Collection[str]) -> bool:
    return len({text.casefold() for text in texts}) == len(texts)
