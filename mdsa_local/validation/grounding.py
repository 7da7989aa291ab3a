"""Does a passage say what the answer says, sentence by sentence?

A sentence is supported by a sentence of a passage, or two that stand together, if it is the same, or if nothing in it speaks against them
(:func:`mdsa_local.validation.agreement.agree`) and most of its content words are theirs; a paraphrase must also be close in meaning. A question holds
no statement, what stands in a list below "Never:" is denied, and what a sentence tells of one thing supports nothing about another
(:func:`_of_another`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from mdsa_local.sentences import FENCE, LIST_MARK, indentation, line_start, other_lists, sentences, spans, unmarked, without_list_mark
from mdsa_local.types import Passage
from mdsa_local.validation import agreement, citations, denials, facts
from mdsa_local.validation.facts import Facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Embed = Callable[[list[str]], NDArray[np.float32]]

SAYS_SOMETHING = re.compile(r"[^\W_]")
LETTER = re.compile(r"(?<!\w)[^\W\d_a-z]\.$")
REFERS_BACK = re.compile(r"(?:it|its|they|their|this|that|these|those|he|she)\b", re.IGNORECASE)
ASKS = re.compile(r"[?？][\"'”’»)\]*_`]*\s*$")
ASKS_WHAT = re.compile(r"\W*(?:\w+\s+)?(?:what|when|where|which|who|whom|whose|why|how)\b", re.IGNORECASE)
# "No. 5" is a number.
YES_OR_NO = re.compile(r"[\s\"'“‘*_]*(?P<word>yes|no)\b[*_]*\s*(?:[,.:;!]|\s-+|\s*[–—])[*_]*\s*(?!\d)", re.IGNORECASE)
# A condition in the line above a list: "If it does not start:" denies none of the steps.
CONDITION = re.compile(r"\b(?:if|when|where|while|whether|who|because|since|once)\b", re.IGNORECASE)
DENIALS = frozenset({"not", "rarely", "except"})
ROW = re.compile(r"\s*\|.*\||[^.!?:|]{1,40}:\s+\S.*[^.!?…]$", re.DOTALL)
RULE = re.compile(r"[\s|:-]+")
# A passage with hard line breaks has its sentences in several lines.
QUOTE_LINES = 4
WORDS_ENOUGH, WORDS_PARAPHRASE, MEANING_ENOUGH = 0.8, 0.45, 0.7
PAIR_COVERED = 0.6
# Two sentences are about the same kind of thing if they share this part of the shorter, and so many words.
ALIKE, ALIKE_WORDS = 0.4, 2


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
class _Part:
    """A sentence of a passage; ``asks`` and ``row`` say what kind it is, ``lead`` is the line that denies it."""

    text: str
    told: Facts
    asks: bool = False
    row: bool = False
    lead: str = ""


@dataclass(frozen=True, slots=True)
class _Pair:
    text: str
    refers_back: bool
    first: Facts
    second: Facts
    both: Facts


@dataclass(frozen=True, slots=True)
class _Source:
    """A passage, read once: what may be quoted whole, each with the line that denies it, and what each sentence or pair of them claims.

    ``asked`` are the quotations that are questions.
    """

    title: Facts
    quotes: dict[str, str]
    asked: frozenset[str]
    parts: tuple[_Part, ...]
    pairs: tuple[_Pair, ...]


def claims(answer: str, quotes: Container[str] = ()) -> list[Claim]:
    """The sentences of an answer, each with the citations in it or behind it. ``quotes``: what stands whole in a passage, as :func:`plain` has it."""
    found = citations.marks(answer)
    bare = citations.blanked(answer, found)
    places = [part for span in spans(bare) for part in _parts(bare, span, found, quotes) if SAYS_SOMETHING.search(bare, *part)]
    said: list[Claim] = []
    until, cited = len(answer), tuple[int, ...]()
    for start, end in reversed(_joined(bare, places, found, quotes)):
        own = _cited(found, start, until)
        cited = own or cited
        said.append(Claim(citations.removed(answer, start, end, found), cited, start, end))
        until = start
    return said[::-1]


def _joined(bare: str, places: Sequence[tuple[int, int]], found: Sequence[citations.Mark], quotes: Container[str]) -> list[tuple[int, int]]:
    """The sentences, with a "Yes." or "No." by itself put to the one behind it; but not one that is quoted from another passage than that."""
    joined: list[tuple[int, int]] = []
    for (start, end), following in zip_longest(places, places[1:]):
        if joined and YES_OR_NO.fullmatch(bare, *joined[-1]):
            own, others = _cited(found, joined[-1][0], start), _cited(found, start, following[0] if following else len(bare))
            if not own or own == others or plain(bare[slice(*joined[-1])]) not in quotes:
                joined[-1] = (joined[-1][0], end)
                continue
        joined.append((start, end))
    return joined


def _cited(found: Sequence[citations.Mark], start: int, until: int) -> tuple[int, ...]:
    return tuple(number for mark in found if start <= mark.start < until for number in mark.numbers)


def _parts(bare: str, span: tuple[int, int], found: Sequence[citations.Mark], quotes: Container[str]) -> Iterator[tuple[int, int]]:
    """A sentence, divided at marks behind a letter by itself: "take vitamin C. [1] Rest. [2]" is two, though "C. Rest" might be a name; and between
    quotations, which may be rows or lines without a full stop, or an item below what leads it in. A heading that goes on in other words is no
    quotation."""
    start, end = span
    inside = [mark for mark in found if start < mark.start < mark.end < end]
    for mark, following in zip_longest(inside, inside[1:]):
        before, after = bare[start : mark.start].rstrip(), bare[mark.end : end]
        until = following.start if following else end
        quoted = plain(before) in quotes and plain(bare[mark.end : until].strip()) in quotes
        if quoted or (LETTER.search(before) and after.lstrip()[:1].isupper()):
            yield from _lines(bare, (start, start + len(before)), quotes)
            start = end - len(after.lstrip())
    yield from _lines(bare, (start, end), quotes)


def _lines(bare: str, span: tuple[int, int], quotes: Container[str]) -> Iterator[tuple[int, int]]:
    """A sentence, divided where a line ends between two quotations."""
    start, end = span
    ends = [at for at in range(start, end) if bare[at] == "\n"]
    for at, until in pairwise([*ends, end]):
        if plain(bare[start:at]) in quotes and plain(bare[at:until].strip()) in quotes:
            yield start, at
            start = at + 1
    yield start, end


def check(answer: str, passages: Sequence[Passage], embed: Embed) -> list[Claim]:
    """Every claim of ``answer`` with the passage that supports it best; ``by`` is None where none does."""
    sources = [_read(passage) for passage in passages]
    quotes = frozenset[str]().union(*(source.quotes for source in sources))
    said = plain(answer)
    return [_settled(claim, said, sources, embed) for claim in claims(answer, quotes)]


def plain(sentence: str) -> str:
    """The form in which a quotation is compared: one space, folded quotes, no list mark, no final stop."""
    return " ".join(facts.fold(without_list_mark(sentence)).split()).rstrip(".!?…:;\"')* ")


def without_yes_or_no(sentence: str) -> str:
    """The sentence without a "Yes," or "No." before it, unless that is all."""
    sentence = without_list_mark(sentence)
    found = YES_OR_NO.match(sentence)
    return sentence[found.end() :] if found and SAYS_SOMETHING.search(sentence, found.end()) else sentence


def _read(passage: Passage) -> _Source:
    parts = _parts_of(passage.text)
    bare = [plain(part.text) for part in parts]
    full = [" ".join(facts.fold(without_list_mark(part.text)).split()) for part in parts]
    quotes: dict[str, str] = {}
    asked = set[str]()
    for start, end in _runs(len(parts)):
        run = " ".join([*full[start:end], bare[end]])
        if ASKS.search(parts[end].text):
            asked.add(run)
        # Where one stands twice, the place counts at which nothing denies it.
        elif run and quotes.get(run) != "":
            quotes[run] = parts[start].lead
    # An item of a list is quoted under a heading that denies or the last, steps under which they are.
    title, part = denials.part(passage.title)
    heading, some = denials.heading(title), part.name if part else ""
    for above in filter(None, (heading, denials.standing(title), some, some and heading and f"{some}: {heading}")):
        name = plain(above)
        quotes |= dict.fromkeys([*map(plain, sentences(above)), *(f"{name}: {sentence}" for sentence in bare)], "")
    # And a bare "No." under the question that it answers.
    for sentence in sentences(denials.asked(title)):
        if ASKS.search(sentence):
            asked.add(plain(sentence))
        else:
            quotes[plain(sentence)] = ""
    pairs = (_pair(one, two) for one, two in pairwise(parts) if _pairs_up(one, two))
    return _Source(facts.read(title), quotes, frozenset(asked - {""}), tuple(parts), tuple(pairs))


def _runs(length: int) -> Iterator[tuple[int, int]]:
    """The first and the last of every run of at most :data:`QUOTE_LINES`."""
    return ((start, end) for end in range(length) for start in range(max(end + 1 - QUOTE_LINES, 0), end + 1))


def _parts_of(text: str) -> list[_Part]:
    """The sentences of a passage: what stands in a list below a line that denies is denied, and a question with "Yes" or "No" behind it answered."""
    parts: list[_Part] = []
    lead = _Part("", facts.read(""))
    until, far, bare = 0, -1, False
    blocks = [match.span() for match in FENCE.finditer(text)]
    others = other_lists(text)
    for start, end in spans(text):
        sentence, between = text[start:end], text[until:start]
        inward, item = indentation(text, start), bool(LIST_MARK.match(sentence))
        code = any(first <= start < last for first, last in blocks)
        bare = bare and not item
        # A list goes on with its items, those without a mark too; one that stands no deeper than the item which denies is beside that, not below, and
        # so is another list.
        other = item and line_start(text, start) in others
        if code or other or ("\n" in between and (inward <= far if item else not (bare and unmarked(between, sentence)))):
            lead, far, bare = _Part("", facts.read("")), -1, False
        until = end
        told = facts.read(without_list_mark(sentence))
        row = bool(ROW.fullmatch(without_list_mark(sentence)))
        answer = YES_OR_NO.match(without_list_mark(sentence))
        if answer and parts and parts[-1].asks:
            parts[-1] = _answered(parts[-1], answer["word"].lower(), told)
        parts.append(_Part(sentence, told.under(lead.told.negations), bool(ASKS.search(sentence)), row, lead.text))
        if (
            sentence.rstrip("*_ ").endswith(":")
            and told.negations
            and DENIALS.issuperset(n.kind for n in told.negations)
            and not CONDITION.search(sentence)
            and not code
        ):
            lead, far, bare = parts[-1], inward if item else -1, True
    return [replace(part, row=False) if following and _is_rule(following.text) else part for part, following in zip_longest(parts, parts[1:]) if part]


def _is_rule(text: str) -> bool:
    """Whether it is the line below the names of a table's columns."""
    return "|" in text and RULE.fullmatch(text) is not None


def _answered(question: _Part, word: str, answer: Facts) -> _Part:
    """A question as the statement that it is with its answer; with "Yes, but only …" it stays a question."""
    if word == "no":
        return replace(question, told=question.told.under([facts.Bound("not")]), asks=False)
    return question if answer.negations else replace(question, asks=False)


def _pairs_up(one: _Part, two: _Part) -> bool:
    """Whether two sentences may tell something together; a question that asks whether something is so tells nothing."""
    return bool(one.told.sequence and two.told.sequence) and not (
        two.asks or one.lead or two.lead or (ASKS.search(one.text) and not ASKS_WHAT.match(one.text))
    )


def _pair(one: _Part, two: _Part) -> _Pair:
    first, second = without_list_mark(one.text), without_list_mark(two.text)
    both = f"{first} {second}"
    return _Pair(both, bool(REFERS_BACK.match(second)), one.told, two.told, facts.read(both))


def _settled(claim: Claim, answer: str, sources: Sequence[_Source], embed: Embed) -> Claim:
    """``claim`` with what supports it. Among passages that do, one the answer cites comes first: its citation is then right.

    What a line above denies is no quotation without that line.
    """
    said = plain(claim.text)
    asks = ASKS.search(claim.text) is not None
    quoting = [index for index, source in enumerate(sources) if _quotes(said, source, answer) or (asks and said in source.asked)]
    if quoting:
        return replace(claim, support=1.0, by=_preferred(claim, dict.fromkeys(quoting, 1.0)), holders=tuple(quoting), quoted=True)
    text = without_yes_or_no(claim.text)
    told = facts.read(text)
    options = [(index, text, share) for index, source in enumerate(sources) for text, share in _candidates(told, source, sources, asks=asks)]
    shares: dict[int, float] = {}
    for index, _, share in options:
        shares[index] = max(share, shares.get(index, 0.0))
    enough = {index: share for index, share in shares.items() if share >= WORDS_ENOUGH}
    if not enough:
        enough = _by_meaning(text, [(index, part) for index, part, share in options if share >= WORDS_PARAPHRASE], embed)
    by = _preferred(claim, enough)
    support = max(shares.values(), default=0.0) if by is None else enough[by]
    return replace(claim, support=support, by=by, holders=tuple(sorted(enough)))


def _quotes(said: str, source: _Source, answer: str) -> bool:
    lead = source.quotes.get(said)
    return lead is not None and plain(lead) in answer


def _preferred(claim: Claim, support: dict[int, float]) -> int | None:
    return max(support, key=lambda index: (index + 1 in claim.cited, support[index], -index), default=None)


def _candidates(claim: Facts, source: _Source, sources: Sequence[_Source], *, asks: bool) -> Iterator[tuple[str, float]]:
    """Sentences and pairs of ``source`` that the claim agrees with, and the share of its content they hold."""
    exchanged = [told for pair in source.pairs if _exchanged(claim, pair) for told in (pair.first, pair.second)]
    for part in source.parts:
        if (part.asks and not asks) or any(part.told is told for told in exchanged):
            continue
        if (share := _share(claim, part.told, source.title)) and not _of_another(claim, part.told, part.row, source, sources):
            yield part.text, share
    for pair in source.pairs:
        if _may_join(claim, pair) and (share := _share(claim, pair.both, source.title)) and not _of_another(claim, pair.both, False, source, sources):
            yield pair.text, share


def _share(claim: Facts, known: Facts, title: Facts) -> float:
    """The share of a claim's content that ``known`` and its title hold; 0 if they disagree, or if all of it is the title's."""
    if not agreement.agree(claim, known, title) or not set(claim.sequence) & set(known.sequence):
        return 0.0
    return (len(claim.words & (known.words | title.words)) + len(claim.numbers)) / max(1, len(claim.words) + len(claim.numbers))


def _of_another(claim: Facts, told: Facts, row: bool, source: _Source, sources: Sequence[_Source]) -> bool:
    """Whether the claim tells what ``told`` does, but of something that another sentence like it tells otherwise of.

    "The Plus plan costs $6." supports no "The Basic plan costs $6." beside "The Basic plan costs $3."
    """
    content, own = set(claim.sequence), set(told.sequence)
    lacking = claim.words - told.words
    if not lacking or not own - content:
        return False
    units = {number.unit for number in claim.numbers}
    for home in sources:
        named = lacking if home is source else lacking - source.title.words
        for other in home.parts:
            theirs = set(other.told.sequence)
            values = {number.kind for number in other.told.numbers if number.unit in units} if units else theirs - own
            if named & other.told.words and own - content - theirs and values - content and ((row and other.row) or _alike(told, other.told)):
                return True
    return False


def _alike(one: Facts, other: Facts) -> bool:
    shared, shorter = len(one.words & other.words), min(len(one.words), len(other.words))
    return shared >= max(ALIKE_WORDS, ALIKE * shorter)


def _may_join(claim: Facts, pair: _Pair) -> bool:
    """Whether a claim may draw on two sentences: the second refers back, or the claim tells all numbers, and most of both and of what each has alone.

    Else "The review takes 5 days. The refund takes 30 days." would hold a review of 30 days. A negation belongs to one sentence.
    """
    if claim.negations or pair.both.negations:
        return False
    content, first, second = set(claim.sequence), set(pair.first.sequence), set(pair.second.sequence)
    covered = all(len(content & part) >= PAIR_COVERED * len(part) for part in (first, second, first - second, second - first))
    told = covered and {number.kind for number in pair.both.numbers} <= content
    return pair.refers_back or (told and not (_alike(pair.first, pair.second) and _mixed(claim, pair.first.words, pair.second.words)))


def _exchanged(claim: Facts, pair: _Pair) -> bool:
    """Whether the claim tells all of two sentences that are alike, but not in their order: then neither supports it by itself."""
    first, second = pair.first.words, pair.second.words
    return first ^ second <= claim.words and _alike(pair.first, pair.second) and _mixed(claim, first, second)


def _mixed(claim: Facts, first: frozenset[str], second: frozenset[str]) -> bool:
    """Whether the claim goes from what only one sentence says to what only the other says, and back: who runs which office?"""
    turns = [word in first for word in claim.sequence if word in first ^ second]
    return sum(one != other for one, other in pairwise(turns)) > 1


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
