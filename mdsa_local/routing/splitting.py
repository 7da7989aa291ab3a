"""Splitting a question that belongs to several domains into its parts, by the router alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdsa_local.types import Part

if TYPE_CHECKING:
    from mdsa_local.routing.reading import Scored

BUT_PLUS = "and|also|then|while|but|as well as|by the way|btw|separately|another thing|oh|&"
JOINING = f"{BUT_PLUS}|plus"
LINKS = rf"(?:{JOINING})"
# Behind these "plus" is what they speak of, "how much is Plus a month", and at the end of a question it joins nothing.
BEFORE_NAMES = "a the my is are do does have has get got of on in to for by from with without".split()
BEHIND_ONE = "|".join(rf"(?<=\b{word})" for word in BEFORE_NAMES)
NAMED_PLUS = rf"(?:(?:{BEHIND_ONE})\s(?=plus(?!\w))|\s(?=plus\W*$))"
# Where one matter may end and another begin, and the words between that belong to neither.
JOINT = re.compile(
    rf"(?:(?<![.?!;:])[.?!;:]+(?=\s|$)\s*|\n\s*|,\s+|\s-+\s+|(?=\s{LINKS}(?!\w))(?!{NAMED_PLUS})\s)"
    rf"(?:plus(?!\w)[\s,:.]*)?(?:(?:{BUT_PLUS}|first(?:ly)?|second(?:ly)?|two things)(?!\w)[\s,:.]*)*",
    re.IGNORECASE,
)
# None of the joints is in a text of printable ASCII without these, in lower case.
OF_JOINTS = (*".?!;:,)-", *(f" {word}" for word in JOINING.split("|")))
# A new sentence or a word that opens another matter; a comma, "and" or "while" join within one matter more often than not.
STRONG = re.compile(r"[.?!;\n]|also|plus|by the way|btw|separately|another thing|second", re.IGNORECASE)
# What a line of a list begins with, and the numbers of a list within a line; there a number alone may be anything.
LINE_MARK = re.compile(r"^[^\S\n]*(?:[-*•‣▪–—]+|\(?(?:\d{1,2}|[a-z])[.)]|q\d{1,2}[:.)])[^\S\n]+", re.IGNORECASE | re.MULTILINE)
NUMBER = re.compile(r"(?<!\S)(?:\(?(?P<number>\d{1,2})[.)]|\(?(?P<letter>[a-z])\)|q(?P<question>\d{1,2})[:.)])\s", re.IGNORECASE)
# Two questions side by side ("when is payday and how long do eggs take"): whatever joins them, the second is as likely as not another matter, and one
# domain for both has to be so much surer. A joining word before a question is no part of it; a "so" in mid-sentence makes it one with what is before.
ASKS = re.compile(
    rf"((?:(?:{BUT_PLUS}|(?<![,\w]\s)so|first(?:ly)?|second(?:ly)?|two things)(?!\w)[\s,:.]*)*)[\"'“”„‘’«»]?"
    r"(?:how|what|when|where|who|whose|which|why|until when|can|could|may|do|does|did|is|are|am|will|should|must|has|have)\b",
    re.IGNORECASE,
)
ONE_FOR_BOTH = 0.3
WORD = re.compile(r"\w+")
MOST_PIECES = 8
SHORTEST_WORDS = 2
SURE_AFTER_STRONG, SURE_AFTER_WEAK = 0.35, 0.6


@dataclass(frozen=True, slots=True)
class Piece:
    """What stands between two joints, from character ``start`` to ``end``; ``strong``: the joint before it is one that opens another matter;
    ``asks``: so does a question."""

    start: int
    end: int
    strong: bool
    asks: bool = False


def pieces(text: str) -> list[Piece]:
    """``text`` divided wherever it may be, without the joining words; what is too short goes to the piece before it."""
    found: list[Piece] = []
    start, strong = 0, True
    plain = _unlisted(text)
    for joint in [*JOINT.finditer(plain), None]:
        end = joint.start() if joint else len(text)
        asks = ASKS.match(plain, start, end)
        start = asks.end(1) if asks else start
        body = plain[start:end].rstrip(" ,.;:!?\n-")
        if len(WORD.findall(body)) >= SHORTEST_WORDS:
            found.append(Piece(start, start + len(body), strong, bool(asks)))
            strong = False
        elif found and body:
            found[-1] = replace(found[-1], end=start + len(body))
        if joint:
            start, strong = joint.end(), strong or bool(STRONG.search(joint[0]))
            if found and found[-1].end == joint.start():
                strong = bool(STRONG.search(joint[0]))
    return found


def single(text: str) -> bool:
    """Whether ``text`` is plainly of one piece, which takes a tenth of the time to see."""
    plain = text.strip().rstrip(".?!").lower()
    return plain.isascii() and plain.isprintable() and not any(mark in plain for mark in OF_JOINTS)


def _unlisted(text: str) -> str:
    """``text`` with a new line in place of each mark of a list, as long as before; within a line those that count from one up."""
    counted: list[re.Match[str]] = []
    for mark in NUMBER.finditer(text):
        at = ord(mark["letter"].lower()) - ord("a") + 1 if mark["letter"] else int(mark["number"] or mark["question"])
        if at == len(counted) + 1:
            counted.append(mark)
    plain = LINE_MARK.sub(lambda mark: "\n".ljust(len(mark[0])), text)
    for mark in counted if len(counted) > 1 else []:
        plain = plain[: mark.start()] + "\n".ljust(len(mark[0])) + plain[mark.end() :]
    return plain


def _fewer(spans: Sequence[Piece]) -> list[Piece]:
    """``spans`` divided only where another matter opens, or between two questions."""
    found = list(spans[:1])
    for span in spans[1:]:
        if span.strong or (found[-1].asks and span.asks):
            found.append(span)
        else:
            found[-1] = replace(found[-1], end=span.end)
    return found


def parts(text: str, score: Callable[[list[str]], Scored]) -> tuple[Part, ...]:
    """The division of ``text`` whose parts are each surely of a domain, neighbours of different ones; empty when it is better left whole.

    The best of all divisions at the joints is found by dynamic programming over the log probabilities of the parts.
    """
    if single(text):
        return ()
    spans = pieces(text)
    if len(spans) > MOST_PIECES:
        spans = _fewer(spans)
    if not 2 <= len(spans) <= MOST_PIECES:
        return ()
    runs = [(i, j) for i in range(len(spans)) for j in range(i + 1, len(spans) + 1)]
    scored = score([text[spans[i].start : spans[j - 1].end] for i, j in runs])
    by_run = dict(zip(runs, scored.scores, strict=True))
    best = _divide(spans, by_run)
    if len(best) < 2:
        return ()
    found = []
    for i, j in best:
        row = by_run[i, j]
        start, end = spans[i].start, spans[j - 1].end
        found.append(Part(scored.names[int(row.argmax())], text[start:end], float(row.max()), start, end))
    return tuple(found)


def _divide(spans: Sequence[Piece], by_run: dict[tuple[int, int], NDArray[np.floating]]) -> list[tuple[int, int]]:
    """Runs that cover all pieces, with the highest sum of their pieces' log confidence; neighbours differ in domain.

    Both sides of a division must be as sure as its joint asks for.
    """
    n = len(spans)
    both_ask = [False, *(one.asks and other.asks for one, other in pairwise(spans))]

    def need(at: int) -> float:
        return 0.0 if at in (0, n) else SURE_AFTER_STRONG if spans[at].strong or both_ask[at] else SURE_AFTER_WEAK

    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, []), *((-np.inf, list[tuple[int, int]]()) for _ in range(n))]
    for j in range(1, n + 1):
        for i in range(j):
            value, before = best[i]
            row = by_run[i, j]
            sure = float(row.max())
            if value == -np.inf or sure < max(need(i), need(j)):
                continue
            if before and by_run[before[-1]].argmax() == row.argmax():
                continue
            total = value + float(np.log(max(sure, 1e-6))) * (j - i) + float(np.log(ONE_FOR_BOTH)) * sum(both_ask[i + 1 : j])
            if total > best[j][0]:
                best[j] = (total, [*before, (i, j)])
    return best[n][1]
