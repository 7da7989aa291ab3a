"""Plain text and Markdown, UTF-8, read piece by piece: a file of any size takes a few megabytes of memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from mdsa_local.knowledge.loaders import Section, UnreadableError

PIECE_BYTES = 1 << 18


def read(path: Path) -> Iterator[Section]:
    """The text as it is, in pieces that continue one another."""
    markdown = path.suffix.lower() != ".txt"
    for number, text in enumerate(decoded(path)):
        yield Section(text, markdown=markdown, continues=number > 0)


def decoded(path: Path) -> Iterator[str]:
    """The text in pieces, line ends as they are. Raises :class:`UnreadableError` where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    with path.open("rb") as file:
        while True:
            data = file.read(PIECE_BYTES)
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise UnreadableError(f"not UTF-8 text: {error.reason} at byte {at - held + error.start}") from None
            at += len(data)
            if text:
                yield text
            if not data:
                return
