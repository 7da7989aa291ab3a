"""Does a passage say what the answer says, sentence by sentence?

A sentence is supported by a sentence of a passage, or two that stand together, if it is the same, or if nothing in it speaks against them
(:func:`mdsa_local.validation.facts.agree`) and most of its content words are theirs; a paraphrase must also be close in meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from mdsa_local.sentences import sentences, spans, without_list_mark
from mdsa_local.types import Passage
from mdsa_local.validation import citations, facts
from mdsa_local.validation.facts import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embed = Callable[[list[str]], NDArray[np.float32]]

SAYS_SOMETHING = re.compile(r"[^\W_]")
LETTER = re.compile(r"(?<!\w)[^\W\d_a-z]\.$")
REFERS_BACK = re.compile(r"(?:it|its|they|their|this|that|these|those|he|she)\b", re.IGNORECASE)
# A passage with hard line breaks has its sentences in several lines.
QUOTE_LINES = 4
WORDS_ENOUGH, WORDS_PARAPHRASE, MEANING_ENOUGH = 0.8, 0.45, 0.7
PAIR_COVERED = 0.6


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of an answer, ``answer[start:end]`` without its marks; ``cited`` are the numbers it gave.

    ``support`` (0..1), ``by`` (index of a passage), ``holders`` (all passages that support it) and ``quoted`` (word for word) are what
    :func:`check` found.
    """

    text: str
    cited: tuple[int, ...]
    start: int = 0
    end: int = 0
    support: float = 0.0
    by: int | None = None
    holders: tuple[int, ...] = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class _Pair:
    text: str
    refers_back: bool
    first: Facts
    second: Facts
    both: Facts


@dataclass(frozen=True, slots=True)
class _Source:
    """A passage, read once: whole sentences as they may be quoted, and what each sentence or pair of them claims."""

    title: Facts
    quotes: frozenset[str]
    parts: tuple[tuple[str, Facts], ...]
    pairs: tuple[_Pair, ...]


def claims(answer: str, quotes: Container[str] = ()) -> list[Claim]:
    """The sentences of an answer, each with the citations in it or behind it. ``quotes``: what stands whole in a passage, as :func:`plain` has it."""
    found = citations.marks(answer)
    bare = citations.blanked(answer, found)
    places = [part for span in spans(bare) for part in _parts(bare, span, found, quotes) if SAYS_SOMETHING.search(bare, *part)]
    said: list[Claim] = []
    until, cited = len(answer), tuple[int, ...]()
    for start, end in reversed(places):
        own = tuple(number for mark in found if start <= mark.start < until for number in mark.numbers)
        cited = own or cited
        said.append(Claim(citations.removed(answer, start, end, found), cited, start, end))
        until = start
    return said[::-1]


def _parts(bare: str, span: tuple[int, int], found: Sequence[citations.Mark], quotes: Container[str]) -> Iterator[tuple[int, int]]:
    """A sentence, divided at marks behind a letter by itself: "take vitamin C. [1] Rest. [2]" is two, though "C. Rest" might be a name; and between
    quotations, which may be rows or lines without a full stop. A heading that goes on in other words is no quotation."""
    start, end = span
    inside = [mark for mark in found if start < mark.start < mark.end < end]
    for mark, following in zip_longest(inside, inside[1:]):
        before, after = bare[start : mark.start].rstrip(), bare[mark.end : end]
        until = following.start if following else end
        quoted = plain(before) in quotes and plain(bare[mark.end : until].strip()) in quotes
        if quoted or (LETTER.search(before) and after.lstrip()[:1].isupper()):
            yield start, start + len(before)
            start = end - len(after.lstrip())
    yield start, end


def check(answer: str, passages: Sequence[Passage], embed: Embed) -> list[Claim]:
    """Every claim of ``answer`` with the passage that supports it best; ``by`` is None where none does."""
    sources = [_read(passage) for passage in passages]
    quotes = frozenset[str]().union(*(source.quotes for source in sources))
    return [_settled(claim, sources, embed) for claim in claims(answer, quotes)]


def plain(sentence: str) -> str:
    """The form in which a quotation is compared: one space, folded quotes, no list mark, no final stop."""
    return " ".join(facts.fold(without_list_mark(sentence)).split()).rstrip(".!?…:;\"')* ")


def _read(passage: Passage) -> _Source:
    said = sentences(passage.text)
    bare = [plain(sentence) for sentence in said]
    full = [" ".join(facts.fold(without_list_mark(sentence)).split()) for sentence in said]
    runs = {" ".join([*full[at:end], bare[end]]) for at in range(len(said)) for end in range(at, min(at + QUOTE_LINES, len(said)))}
    parts = tuple((sentence, facts.read(without_list_mark(sentence))) for sentence in said)
    return _Source(facts.read(passage.title), frozenset(runs - {""}), parts, tuple(_pair(*one, *two) for one, two in pairwise(parts)))


def _pair(first: str, said_first: Facts, second: str, said_second: Facts) -> _Pair:
    first, second = without_list_mark(first), without_list_mark(second)
    both = f"{first} {second}"
    return _Pair(both, bool(REFERS_BACK.match(second)), said_first, said_second, facts.read(both))


def _settled(claim: Claim, sources: Sequence[_Source], embed: Embed) -> Claim:
    """``claim`` with what supports it. Among passages that do, one the answer cites comes first: its citation is then right."""
    said = plain(claim.text)
    quoting = [index for index, source in enumerate(sources) if said in source.quotes]
    if quoting:
        return replace(claim, support=1.0, by=_preferred(claim, dict.fromkeys(quoting, 1.0)), holders=tuple(quoting), quoted=True)
    told = facts.read(without_list_mark(claim.text))
    options = [(index, text, share) for index, source in enumerate(sources) for text, share in _candidates(told, source)]
    shares: dict[int, float] = {}
    for index, _, share in options:
        shares[index] = max(share, shares.get(index, 0.0))
    enough = {index: share for index, share in shares.items() if share >= WORDS_ENOUGH}
    if not enough:
        enough = _by_meaning(claim.text, [(index, text) for index, text, share in options if share >= WORDS_PARAPHRASE], embed)
    by = _preferred(claim, enough)
    support = max(shares.values(), default=0.0) if by is None else enough[by]
    return replace(claim, support=support, by=by, holders=tuple(sorted(enough)))


def _preferred(claim: Claim, support: dict[int, float]) -> int | None:
    return max(support, key=lambda index: (index + 1 in claim.cited, support[index], -index), default=None)


def _candidates(claim: Facts, source: _Source) -> Iterator[tuple[str, float]]:
    """Sentences and pairs of ``source`` that the claim agrees with, and the share of its content they hold."""
    windows = [*source.parts, *((pair.text, pair.both) for pair in source.pairs if _may_join(claim, pair))]
    for text, known in windows:
        if facts.agree(claim, known, source.title):
            held = len(claim.words & (known.words | source.title.words)) + len(claim.numbers)
            yield text, held / max(1, len(claim.words) + len(claim.numbers))


def _may_join(claim: Facts, pair: _Pair) -> bool:
    """Whether a claim may draw on two sentences: the second refers back, or the claim tells most of both and all their numbers.

    Else "The review takes 5 days. The refund takes 30 days." would hold a review of 30 days. A negation belongs to one sentence.
    """
    if claim.negations or pair.both.negations:
        return False
    content = set(claim.sequence)
    covered = all(len(content & set(part.sequence)) >= PAIR_COVERED * len(set(part.sequence)) for part in (pair.first, pair.second))
    return pair.refers_back or (covered and {number.kind for number in pair.both.numbers} <= content)


def _by_meaning(sentence: str, options: Sequence[tuple[int, str]], embed: Embed) -> dict[int, float]:
    """Support of a paraphrase by passage: the closeness of its nearest sentence, where that is enough."""
    if not options:
        return {}
    vectors = embed([sentence, *(text for _, text in options)])
    found: dict[int, float] = {}
    for (index, _), closeness in zip(options, vectors[1:] @ vectors[0], strict=True):
        if closeness >= MEANING_ENOUGH:
            found[index] = max(float(closeness), found.get(index, 0.0))
    return found
