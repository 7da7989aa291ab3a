"""Open the source of a passage at its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mdsa_local.knowledge.chunking import line_feeds
from mdsa_local.knowledge.ingest import file_of
from mdsa_local.knowledge.loaders import UnreadableError, fingerprint
from mdsa_local.knowledge.loaders.contained import Reader
from mdsa_local.types import Passage

AROUND_BYTES = 400


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage with the text before and after it in its source.

    ``state`` says whether the source is what was stored: ``unchanged``; ``changed`` or ``missing``, and then there is nothing around it;
    ``text`` when it was given as text, not as a file.
    """

    passage: Passage
    state: Literal["unchanged", "changed", "missing", "text"]
    before: str = ""
    after: str = ""


def around(passage: Passage, digest: str) -> Shown:
    """Look a passage up in its source, which had the :func:`~mdsa_local.knowledge.loaders.fingerprint` ``digest``."""
    path = file_of(passage.id.rpartition("#")[0], passage.source)
    if path is None:
        return Shown(passage, "text")
    try:
        # Read otherwise, the text may still be the same.
        if fingerprint(path).partition("-")[0] != digest.partition("-")[0]:
            return Shown(passage, "changed")
        text = _extracted(path, passage.end + AROUND_BYTES)
    except UnreadableError:
        return Shown(passage, "changed")
    except (FileNotFoundError, NotADirectoryError):
        return Shown(passage, "missing")
    # A loader of a later version may take other text from the same file.
    if line_feeds(text[passage.start : passage.end].decode(errors="replace")) != passage.text:
        return Shown(passage, "changed")
    before = text[max(passage.start - AROUND_BYTES, 0) : passage.start].decode(errors="ignore")
    return Shown(passage, "unchanged", line_feeds(before), line_feeds(text[passage.end : passage.end + AROUND_BYTES].decode(errors="ignore")))


def _extracted(path: Path, size: int) -> bytes:
    """At least the first ``size`` bytes of the text that offsets refer to, where there are as many."""
    parts: list[bytes] = []
    length = 0
    with Reader() as reader:
        for section in reader.sections(path):
            parts.append(section.text.encode())
            length += len(parts[-1])
            if length >= size:
                break
    return b"".join(parts)
