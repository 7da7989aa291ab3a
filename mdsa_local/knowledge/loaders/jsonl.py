"""JSON lines: a section for each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdsa_local.knowledge.loaders import Section, UnreadableError
from mdsa_local.knowledge.loaders.json import parsed, record
from mdsa_local.knowledge.loaders.text import lines

LINE_CHARS = 16 << 20
# What the fields of a line may come to: so many characters, or so many times the line.
LEAST_MOST_CHARS, GROWTH = 1 << 16, 16
# So many lines that cannot be used are told one by one.
MOST_TOLD = 10


def read(path: Path) -> Iterator[Section]:
    """The records in order; see :func:`mdsa_local.knowledge.loaders.json.record`. A line that is no JSON object is passed over, which is told at the
    end; where there is no other, the file cannot be used."""
    faults: list[str] = []
    good = bad = 0
    for number, line in enumerate(lines(path, LINE_CHARS), 1):
        if not line.strip():
            continue
        try:
            value = parsed(line, f"line {number}: ")
            if not isinstance(value, dict):
                raise UnreadableError(f"line {number}: no JSON object")
            section = record(value, path.stem, f"line {number}", max(LEAST_MOST_CHARS, GROWTH * len(line)))
        except UnreadableError as error:
            bad += 1
            faults += [str(error)] if bad <= MOST_TOLD else []
            continue
        good += 1
        yield section
    if bad and not good:
        raise UnreadableError(faults[0])
    more = [f"{bad - MOST_TOLD:,} more lines passed over"] if bad > MOST_TOLD else []
    for remark in [*(f"{fault}: passed over" for fault in faults), *more]:
        yield Section("", remark=remark)
