"""Text out of tokens: whole characters only, and nothing from a stop string onwards."""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class StopFilter:
    """Bytes in, text out. Text that may begin a stop string is held back until it is known; a stop string is never passed on.

    The stop string that is complete first wins, so the result does not depend on how the bytes were cut into pieces.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Text that is now certain. ``stopped`` becomes True when a stop string was met."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            out, self._held = self._held[: min(found)[1]], ""
            return out
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def flush(self) -> str:
        """What was held back, once no more bytes come. The bytes of an unfinished character are dropped."""
        out, self._held = self._held, ""
        return out


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
