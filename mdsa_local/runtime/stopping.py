"""Text out of tokens: whole characters only, and nothing from a stop string onwards."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Literal

THINKS, THOUGHT = "<think>", "</think>"
# Before thoughts. Behind more of them an answer begins: who reads it has to see blanks that have no end.
MOST_BLANKS = 100


class Thoughts:
    """Text in, text out without the thoughts it begins with, between ``<think>`` and ``</think>``, which are in ``told``. The result does not depend
    on how the text was cut into pieces.

    ``begun``: whether the prompt ends in ``<think>``.
    """

    def __init__(self, begun: bool = False) -> None:
        self._place: Literal["before", "in", "behind", "after"] = "in" if begun else "before"
        self._held = self.told = ""

    def feed(self, piece: str) -> str:
        """The text of the answer that is now certain."""
        if self._place == "before":
            piece, self._held = self._held + piece, ""
            text = piece.lstrip()
            if len(piece) - len(text) > MOST_BLANKS:
                self._place = "after"
            elif text.startswith(THINKS):
                self._place, piece = "in", text[len(THINKS) :]
            elif THINKS.startswith(text):
                self._held = piece
                return ""
            else:
                self._place = "after"
        if self._place == "in":
            told, end, piece = (self._held + piece).partition(THOUGHT)
            size = len(told) - (0 if end else overlap(told, THOUGHT))
            self.told += told[:size]
            self._held = "" if end else told[size:]
            self._place = "behind" if end else "in"
        if self._place == "behind" and (piece := piece.lstrip()):
            self._place = "after"
        return piece

    def flush(self) -> str:
        """What was held back, once no more comes."""
        held, self._held = self._held, ""
        if self._place == "in":
            self.told += held
            return ""
        return held


def unopened(text: str) -> int:
    """How many of its first characters are thoughts that only end, on a line that ``</think>`` ends: the prompts of some servers open them. 0 without
    such an end."""
    told, end, rest = text.partition(THOUGHT)
    answer = rest.lstrip()
    ends = end and THINKS not in told and (not answer or "\n" in rest[: len(rest) - len(answer)])
    return len(text) - len(answer) if ends else 0


class StopFilter:
    """Bytes in, text out. Text that may begin a stop string is held back until it is known; a stop string is never passed on.

    The stop string that is complete first wins, so the result does not depend on how the bytes were cut into pieces. ``thoughts`` are kept apart.
    """

    def __init__(self, stops: Iterable[str], thinks: bool = False) -> None:
        """``thinks``: whether the prompt ends where thoughts begin."""
        self.thoughts = Thoughts(thinks)
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Text that is now certain. ``stopped`` becomes True when a stop string was met."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
        if not self._stops:
            return self.thoughts.feed(self._taken())
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            out, self._held = self._held[: min(found)[1]], ""
            return self.thoughts.feed(out)
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self.thoughts.feed(out)

    def flush(self) -> str:
        """What was held back, once no more bytes come. The bytes of an unfinished character are dropped."""
        return self.thoughts.feed(self._taken()) + self.thoughts.flush()

    def _taken(self) -> str:
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
