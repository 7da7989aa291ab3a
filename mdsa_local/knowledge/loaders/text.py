"""Plain text and Markdown, read piece by piece: a file of any size takes a few megabytes of memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mdsa_local.knowledge.loaders import Section, UnreadableError
from mdsa_local.knowledge.loaders.encodings import BINARY, encoding
from mdsa_local.knowledge.loaders.front import front_matter, title
from mdsa_local.mail import messages

PIECE_BYTES = 1 << 18
# So much of a text is looked through for messages at a time.
MESSAGES_CHARS = 1 << 20


def read(path: Path) -> Iterator[Section]:
    """The text as it is, in pieces that continue one another; before it, of Markdown, its front matter. Of other text each message that begins, or is
    quoted, is a section."""
    markdown = path.suffix.lower() != ".txt"
    if not markdown:
        yield from _messages(decoded(path), path.stem)
        return
    goes_on = False
    for number, text in enumerate(decoded(path)):
        if number == 0 and markdown and (front := front_matter(text)):
            about, end = front
            yield Section(text[:end], title(about), about=about)
            text = text[end:]
        yield Section(text, markdown=markdown, continues=goes_on)
        goes_on = True


def _messages(pieces: Iterator[str], stem: str) -> Iterator[Section]:
    goes_on, heading, waiting = False, "", ""
    for piece in chain(pieces, [""]):
        waiting += piece
        if piece and len(waiting) < MESSAGES_CHARS:
            continue
        # Where a line is blank nothing is cut in two that a message begins with.
        end = max(waiting.rfind("\n\n"), waiting.rfind("\r\n\r\n")) if piece else 0
        end = end if end > 0 else len(waiting)
        text, waiting = waiting[:end], waiting[end:]
        begun = messages(text)
        edges = [*(start for start, _ in begun), len(text)]
        if edges[0]:
            yield Section(text[: edges[0]], heading, continues=goes_on)
            goes_on = True
        for (start, name), after in zip(begun, edges[1:], strict=True):
            heading = f"{stem} > {name}"
            yield Section(text[start:after], heading)
            goes_on = True


def decoded(path: Path) -> Iterator[str]:
    """The text in pieces, line ends as they are; of UTF-8 it is the file byte by byte. The file is read twice, as only its end may tell how it is
    encoded. Raises :class:`UnreadableError` for what is no text."""
    name = encoding(_pieces(path))
    decoder = codecs.getincrementaldecoder(name)()
    at = 0
    for data in chain(_pieces(path), [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise UnreadableError(f"not {name} text: {error.reason} at byte {at - held + error.start}") from None
        if "\0" in text:
            raise UnreadableError(BINARY)
        at += len(data)
        if text:
            yield text


def lines(path: Path, most: int = 0) -> Iterator[str]:
    """The lines of the text with their ends, which are line feeds; without a byte order mark. Raises :class:`UnreadableError` for one that is longer
    than ``most`` characters, if that is given."""
    parts: list[str] = []
    size, number = 0, 1
    for at, piece in enumerate(decoded(path)):
        *whole, last = (piece.removeprefix("\ufeff") if at == 0 else piece).split("\n")
        for line in whole:
            yield "".join((*parts, line, "\n"))
            parts, size, number = [], 0, number + 1
        parts.append(last)
        size += len(last)
        if most and size > most:
            raise UnreadableError(f"line {number} is longer than {most >> 20} million characters")
    if size:
        yield "".join(parts)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            yield data
