"""Files of JSON lines, read one line at a time: memory is bounded by the longest line, however large the file is."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mdsa_local.errors import InputError

# No line that a person or program writes for us is longer; a file without line breaks is not read into memory.
LONGEST_LINE_BYTES = 1_000_000
# More than this many rows, or this much text, is drawn from by chance.
MOST_ROWS, MOST_CHARACTERS = 20_000, 100_000_000

Row = TypeVar("Row")


def lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """``(number, text)`` of every line that is not blank, numbers from 1. Raises :class:`InputError` that names file and line; ``expected`` is its
    hint."""
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(raw) > LONGEST_LINE_BYTES:
                    raise InputError(f"{path}, line {number}: longer than {LONGEST_LINE_BYTES:,} bytes", expected)
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start})", "Give a UTF-8 file.") from None
                if text.strip():
                    yield number, text
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "Give a file of JSON lines.") from None


def rows(path: Path, expected: str, parse: Callable[[Any], Row]) -> Iterator[tuple[int, Row]]:
    """``(number, row)`` of every line through ``parse``, whose :class:`ValueError` says what is wrong with it. Raises :class:`InputError`."""
    for number, text in lines(path, expected):
        try:
            yield number, parse(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: {error}", expected) from None


def folded(text: str) -> str:
    """The same of two texts that are the same question but for capitals and spaces."""
    return " ".join(text.lower().split())


@dataclass(frozen=True, slots=True)
class Sample(Generic[Row]):
    """Rows of a file with the numbers of their lines, in its order: all of them, or ``len(rows)`` of ``total`` drawn by chance."""

    rows: tuple[tuple[int, Row], ...]
    total: int


def sample(
    found: Iterable[tuple[int, Row]], size: Callable[[Row], int], seed: int, most: int = MOST_ROWS, most_characters: int = MOST_CHARACTERS
) -> Sample[Row]:
    """At most ``most`` rows of together at most ``most_characters`` (``size`` of each), every row as likely as any other.

    Each gets a random number and those with the smallest are kept (Efraimidis & Spirakis 2006, with equal weights), so one pass is enough.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, Row]] = []
    held = total = 0
    for number, row in found:
        total += 1
        heapq.heappush(kept, (-rng.random(), number, row))
        held += size(row)
        while len(kept) > most or (held > most_characters and len(kept) > 1):
            held -= size(heapq.heappop(kept)[2])
    return Sample(tuple((number, row) for _, number, row in sorted(kept, key=lambda item: item[1])), total)
