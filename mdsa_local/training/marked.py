"""Texts written for training, line by line: what stands before the first blank of a line, its mark, says what the line is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdsa_local.errors import InputError


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not empty; ``place``: its file and number."""

    place: str
    text: str

    @property
    def mark(self) -> str:
        """What stands before the first blank."""
        return self.text.partition(" ")[0]

    @property
    def rest(self) -> str:
        """What stands behind it."""
        return self.text.partition(" ")[2]

    def refused(self, form: str, why: str = "not understood") -> InputError:
        """The error for a line that is not of this ``form``."""
        return InputError(f"{self.place}: {why}: {self.text}", form)


def marked(lines: Sequence[str], name: str) -> Iterator[Line]:
    """The lines of the file ``name`` that are not empty, without blanks around them."""
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            yield Line(f"{name}:{number}", text)


def files(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The files of a folder, by name, and their lines."""
    for path in sorted(folder.glob("*.txt")):
        yield path, path.read_text(encoding="utf-8").split("\n")
