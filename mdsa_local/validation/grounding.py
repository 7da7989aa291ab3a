"""Does a passage say what the answer says, sentence by sentence?

A sentence is supported by a passage that holds all its numbers and most of its content words; a paraphrase, with fewer words in common,
needs a sentence of the passage close to it in meaning. Citations are set to the passage that supports the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdsa_local.types import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embed = Callable[[list[str]], NDArray[np.float32]]

CITATION = re.compile(r"\s*\[(\d{1,2})\]")
# A sentence ends at . ! ? before a space and a capital, digit or quote; never after a list number such as "2."
BOUNDARY = re.compile(r"(?<![0-9]\.)(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[\"'(]?[A-Z0-9])|\n+")
TOKEN = re.compile(r"[^\W_]+(?:[.,:'-][^\W_]+)*", re.UNICODE)
COMMON = frozenset(
    """
    a about after all also an and any are as at be been before both but by can could did do does for from had has have
    how i if in into is it its may might must my no not of on only or our out over per should so some such than that the
    their them then there these they this those to under until up was we were what when where which while who why will
    with within would you your
    """.split()
)
WORDS_ENOUGH, WORDS_PARAPHRASE, MEANING_ENOUGH = 0.8, 0.45, 0.7


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of an answer; ``cited`` are the numbers it gave, ``support`` (0..1) and ``by`` (index of a passage) what was found."""

    text: str
    cited: tuple[int, ...]
    support: float = 0.0
    by: int | None = None


def sentences(text: str) -> list[str]:
    """Sentences and lines of ``text``, without the white space between them."""
    return [part.strip() for part in BOUNDARY.split(text) if part.strip()]


def claims(answer: str) -> list[Claim]:
    """The sentences of an answer, each with the citations behind it."""
    found: list[Claim] = []
    # "The fee is $5 [1]." means the same as "The fee is $5. [1]".
    answer = re.sub(r"((?:\s*\[\d{1,2}\])+)([.!?])", r"\2\1", answer.strip())
    for block in re.split(r"(?<=\])\s+(?=[^\s\[])", answer):
        cited = tuple(int(number) for number in CITATION.findall(block))
        said = sentences(CITATION.sub("", block))
        found += [Claim(sentence, cited) for sentence in said if TOKEN.search(sentence)]
    return found


def stem(word: str) -> str:
    """A crude stem, so that ``refunds`` meets ``refund``."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def content(text: str) -> tuple[set[str], set[str]]:
    """``(stems of content words, numbers)`` of a text; words with a digit in them count as numbers."""
    words, numbers = set(), set()
    for token in TOKEN.findall(text.lower()):
        if any(char.isdigit() for char in token):
            numbers.add(token.replace(",", ""))
        elif token not in COMMON:
            words.add(stem(token))
    return words, numbers


def without_list_mark(sentence: str) -> str:
    """The sentence without a leading ``2.`` or ``-``: the number of a step is not a fact."""
    return re.sub(r"^(?:\d{1,2}[.)]|[-*])\s+", "", sentence)


def check(answer: str, passages: Sequence[Passage], embed: Embed) -> list[Claim]:
    """Every claim of ``answer`` with the passage that supports it best; ``by`` is None where none does."""
    known = [content(f"{p.title} {p.text}") for p in passages]
    settled: list[Claim] = []
    for claim in claims(answer):
        words, numbers = content(without_list_mark(claim.text))
        best, by = 0.0, None
        for index, (passage_words, passage_numbers) in enumerate(known):
            if not numbers <= passage_numbers:
                continue
            share = (len(words & passage_words) + len(numbers)) / max(1, len(words) + len(numbers))
            # An equal share goes to the passage the answer itself cites.
            if share > best or (share == best and by is not None and index + 1 in claim.cited and by + 1 not in claim.cited):
                best, by = share, index
        if best < WORDS_ENOUGH and by is not None:
            best, by = _by_meaning(claim.text, passages, known, numbers, best, embed)
        settled.append(Claim(claim.text, claim.cited, best, by))
    return settled


def _by_meaning(
    sentence: str, passages: Sequence[Passage], known: Sequence[tuple[set[str], set[str]]], numbers: set[str], share: float, embed: Embed
) -> tuple[float, int | None]:
    """Support of a paraphrase: its nearest sentence among the passages that hold its numbers."""
    if share < WORDS_PARAPHRASE:
        return share, None
    options = [(i, s) for i, p in enumerate(passages) if numbers <= known[i][1] for s in sentences(p.text)]
    vectors = embed([sentence, *(text for _, text in options)])
    closeness = vectors[1:] @ vectors[0]
    best = int(closeness.argmax())
    return (float(closeness[best]), options[best][0]) if closeness[best] >= MEANING_ENOUGH else (share, None)
