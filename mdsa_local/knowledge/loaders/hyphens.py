"""Words that are parted at the end of a line, put together again by what else the document writes.

Whether the hyphen is the word's own no dictionary tells better: a manual that says "stacktrace" elsewhere parts that, and one with "long-term" in
the middle of a line means the hyphen. Of 335 words parted in four manuals (pdfTeX) seven came out otherwise than their authors wrote them.
"""

from __future__ import annotations

import re
from itertools import pairwise

_PARTED = re.compile(r"(?<!\w)(?P<first>\w{1,40})[-\u2010][ ]*\n[ ]*(?P<second>\w{1,40})(?P<rest>\S*)(?P<blank>[ ]*)")
_WORD, _COMPOUND = re.compile(r"(?<![\w-])[^\W\d_]+(?![\w-])"), re.compile(r"(?<![\w-])[^\W\d_]+(?:-[^\W\d_]+)+(?![\w-])")
# They keep theirs where nothing else tells.
_PREFIXES = frozenset("non self pseudo semi quasi ex all half well".split())
# Behind these a second word has what the first lacks: "short- and long-term".
_LINKS = frozenset("and or to und oder bis et ou y o e".split())
_IN_ADDRESS = re.compile(r"[/@_.]|-$")
_SHORT = 2


class Hyphens:
    """The words of one document, as far as it has been read."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._compounds: set[str] = set()

    def learn(self, text: str) -> None:
        """Take note of the words of a page that are not parted."""
        said = _PARTED.sub(" ", text).lower()
        self._words.update(_WORD.findall(said))
        for compound in _COMPOUND.findall(said):
            parts = compound.split("-")
            self._compounds.update(f"{first}-{second}" for first, second in pairwise(parts))

    def joined(self, text: str) -> str:
        """``text`` with its parted words in one piece, at the end of the line where they began."""
        return _PARTED.sub(self._one, text)

    def _one(self, parted: re.Match[str]) -> str:
        first, second = parted["first"], parted["second"]
        if second.lower() in _LINKS:
            return parted[0]
        hyphen = "-" if self._has_one(first, second, parted.string[max(parted.start() - 100, 0) : parted.start()]) else ""
        return f"{first}{hyphen}{second}{parted['rest']}" + ("\n" if parted["blank"] else "")

    def _has_one(self, first: str, second: str, before: str) -> bool:
        one, other = first.lower(), second.lower()
        if _IN_ADDRESS.search(before.rpartition("\n")[2].rpartition(" ")[2]) or not (first + second).isalpha():
            return True
        if one + other in self._words:
            return False
        if f"{one}-{other}" in self._compounds or not (first[-1].islower() and second[0].islower()) or one in _PREFIXES:
            return True
        return min(len(one), len(other)) > _SHORT and one in self._words and other in self._words
