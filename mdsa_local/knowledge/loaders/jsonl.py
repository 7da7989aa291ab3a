"""JSON lines: a section for each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdsa_local.knowledge.loaders import Section
from mdsa_local.knowledge.loaders.json import parsed, record
from mdsa_local.knowledge.loaders.text import lines

LINE_CHARS = 16 << 20


def read(path: Path) -> Iterator[Section]:
    """The records in order; see :func:`mdsa_local.knowledge.loaders.json.record`."""
    for number, line in enumerate(lines(path, LINE_CHARS), 1):
        if line.strip():
            yield record(parsed(line, f"line {number}: "), path.stem, f"line {number}")
