"""JSON lines: a section for each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mdsa_local.knowledge.loaders import Section, UnreadableError
from mdsa_local.knowledge.loaders.json import parsed, record

LINE_BYTES = 16 << 20


def read(path: Path) -> Iterator[Section]:
    """The records in order; see :func:`mdsa_local.knowledge.loaders.json.record`."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise UnreadableError(f"line {number} is longer than {LINE_BYTES >> 20} MB")
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if data.strip():
                yield record(parsed(data, f"line {number}: "), path.stem, f"line {number}")
