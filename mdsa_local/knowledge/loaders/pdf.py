"""The text of PDF files, a section for each page, by pypdf. Scanned pages have none; rows of tables become lines."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdsa_local.knowledge.loaders import Section, UnreadableError, titled
from mdsa_local.knowledge.loaders.hyphens import Hyphens
from mdsa_local.knowledge.loaders.pdf_pieces import Places, with_raised
from mdsa_local.knowledge.loaders.pdf_tables import Tables

# So many pages are read before the first is told: by their words, and those of all before, the hyphens at the ends of lines are judged.
AHEAD = 32
# At the end of a line it parts a word.
_PARTED = re.compile(r"(?<=[^\W\d_])\u00ad(?:[ ]?\n)?(?=[^\W\d_])")


def read(path: Path) -> Iterator[Section]:
    """The pages that have text, titled ``title > page 3``; see :func:`~mdsa_local.knowledge.loaders.titled`."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        with PdfReader(path) as reader:
            # Many files are encrypted with an empty password, only to set permissions.
            if reader.is_encrypted and not reader.decrypt(""):
                raise UnreadableError("is encrypted with a password")
            if not reader.pages:
                raise UnreadableError("has no pages")
            empty, pictured = True, False
            places, tables, hyphens, waiting = Places(), Tables(), Hyphens(), deque[Section]()
            title = titled(_title(reader), path.stem)
            for number, page in enumerate(reader.pages, 1):
                taken, pieces = places.taken(page)
                text = _clean(tables.told(with_raised(taken, pieces), pieces))
                if text.strip():
                    empty = False
                    hyphens.learn(text)
                    waiting.append(Section(text + "\n\n", f"{title} > page {number}"))
                while len(waiting) > AHEAD:
                    yield _joined(waiting.popleft(), hyphens)
                pictured = pictured or (empty and _pictured(page))
            if empty:
                pictures = ": its pages are pictures; recognise their text first (OCR)" if pictured else ", nor a picture that could have some"
                raise UnreadableError(f"has no text{pictures}")
            for section in waiting:
                yield _joined(section, hyphens)
    except PyPdfError as error:
        raise UnreadableError(f"is damaged or no PDF: {error}") from None


def _joined(section: Section, hyphens: Hyphens) -> Section:
    return replace(section, text=hyphens.joined(section.text))


def _clean(text: str) -> str:
    """Text without what only tells where a word may be parted. Next to anything but letters such a mark is a hyphen: in an old encoding it is one."""
    joined = _PARTED.sub("", text.replace("\u200b", "")).replace("\u00ad", "-")
    return joined.encode(errors="replace").decode()


def _title(reader: Any) -> object:
    from pypdf.errors import PyPdfError

    try:
        return reader.metadata and reader.metadata.title
    except PyPdfError:
        # What a file tells of itself may be damaged where its pages are not.
        return None


def _pictured(page: Any) -> bool:
    """Whether a page shows a picture, or something that may have one in it."""
    resources: object = getattr(page.get("/Resources"), "get_object", dict)()
    return isinstance(resources, dict) and bool(resources.get("/XObject"))
