"""Answers that can only be quotations: a grammar of the sentences in the passages, for models whose skill is to point at the right one.

A model of a few million parameters cannot read four whole passages, nor copy every name and number in them. It is shown the few sentences
that answer the question best, best first, and with this grammar llama.cpp lets it write nothing but one to three of them, each with the ``[n]``
of its passage: it still chooses, token by token, which comes first, or, without a judge, to refuse. How well a sentence answers says the judge, of
those that the encoder finds nearest; without a judge the nearness alone.
A model asks for it by ``decoding: quotes`` in its ``model.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise, takewhile
from math import ceil
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Protocol

from mdsa_local import mail
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.units import MOST_WORDS, PAIR, STEP, STRUCK, quotable
from mdsa_local.routing.splitting import LINKS, MOST_PIECES, pieces
from mdsa_local.sentences import LIST_MARK, line_start, without_list_mark
from mdsa_local.types import Turn
from mdsa_local.validation import citations, denials, facts, identifiers, vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.validation.identifiers import Names
    from mdsa_local.validation.judge import Weighing

# Between two things that are asked.
ANOTHER = re.compile(rf"\?|(?<!\w){LINKS}(?!\w)", re.IGNORECASE)
MOST_CHOICES = 5
# Log odds for one unit of cosine: the model's own opinion decides between sentences about equally near. On 153 of the shipped answer questions
# 60, 120, 240 and 300 are level (88, 89, 87, 88 right); at 60 a sentence that is farther by 0.1 may still win.
NEARNESS_ODDS = 300.0
# As much for one unit of the judge's log odds: what it tells apart is not for a model a third its size to put right.
JUDGED_ODDS = 30.0
# How much a unit counts under its title beside itself alone. Of the shipped answer questions whose fact was retrieved, the nearest unit holds it for
# 60.5 % of every second one without and 65.8 % with it, where this was chosen; for 56.3 and 60.9 % of the others.
TITLED = 0.6

# Units that share so much of the longer one's content words, with the same numbers and negations, say the same.
SAME_WORDS = 0.75
# The nearest unit to a part of a question is about it from this cosine on.
PART_NEARNESS = 0.5
# Rows of one table are about different things: one is quoted beside another where it answers about as well, however near to it it stands.
ROW_BESIDE = 0.5
# Held to a text a model may write it in more tokens than the tokenizer makes of it: in mostly so many, and at worst.
SPLIT_UP, SPLIT_MORE = 1.2, 2.0
# An answer quotes up to so many units: where the nearest does not hold the fact asked for, the next often does.
MOST_QUOTED = 3
# How much less near (cosine) than the nearest a unit may be to be quoted beside it, from the same passage and from another one.
SAME_PASSAGE, OTHER_PASSAGE = 0.15, 0.08
# So many units, the nearest, are read by the judge; of those nearest to a part of a question fewer.
READ, READ_FOR_PART = 10, 4
# Where none of these reaches such odds, so many more are read. Of 2,062 questions to held-out organisations of the written articles, all sentences at
# hand, the best unit answers 79.3 % without, 83.8 % with this (28 % of them read more) and 84.2 % if all read so many.
UNSURE, READ_MORE = 0.0, 6
# A unit leads for a part of a question from these log odds on, of which so much is taken for each unit by which its score for the whole question is
# less than the best's: what is told apart from the rest ("urgent ticket, answer in how long?") is often no question of its own. Of the shipped answer
# questions, domain given, the citations are 2 points more precise by it.
PART_ODDS, WHOLE_ODDS = 0.0, 0.5
# A judge cannot read names such as `queue_limit`. Where nothing but what one is is asked, a unit that has it answers with at least such odds, and one
# that begins with it with one more; else what has all of those in the question gains so much.
TOLD_BY_NAME, NAMED = 2.0, 2.0
# Of rows, records and items that differ in a number or code of the question, those that have it, or whose heading has it, gain so much.
TOLD_APART = 2.0
# A judge cannot read such numbers either. Where this asks, what stands under them and is all else that the question names answers as above; what
# versions are said to be or to have is no more than that.
ASKS_WHAT = re.compile(r"(?<!\w)(?:what|which)(?!\w)", re.IGNORECASE)
OF_VERSIONS = frozenset(map(vocabulary.stem, "what's version release update bug feature".split()))
# What a message quotes of an older one counts so much less than what it says itself.
OLDER = 2.0
# From these odds on it leads in any case, and the documents answer a question of which they answer a part. Of 24 questions with two parts in two
# documents 15 get both with this and the next, 13 with this alone.
SURE_PART_ODDS = 4.0
# The same of these, where different units answer different parts.
TOGETHER_ODDS = 2.0
# Of a message that goes on from another the two are read together; the message alone counts so much beside that, and what a unit has to say to the
# other one is taken off by so much: "and express?" does not ask for what standard delivery costs. So many units are read, nearest to the two together
# and to the message alone, and so many of them are compared. Of 38 turns (tests/data) the best unit holds the fact asked for in 33, by the two read
# together alone in 17, and in 31 to 33 with half to all and 0.3 to 0.5; of 30 others answers begin with it in 25, before in 13.
ALONE, BEFORE = 0.75, 0.4
READ_TOGETHER, READ_ALONE, COMPARED = 8, 4, 5
# What the judge says of a turn: so much of its odds for the two read together, which speak of either, the rest for the message alone, which as a
# question is a poor one, and so much. With what :mod:`answerable` makes of it 55 of 56 best units that hold the fact stand, and 23 of 24 turns that
# no document answers ("and netflix?") are declined; without, by the best odds of any unit for the two, 56 and 6.
VOUCHED_TOGETHER, VOUCHED = 0.4, 1.0
# The rules of the grammar for an extract: as it stands, without its heading, an item without the mark of a list.
QUOTED, ROW, APART = "q", "r", "a"
LINES = r'"\n"'


class Judge(Protocol):
    """What is asked of a judge; see :mod:`mdsa_local.validation.judge`."""

    weighing: Weighing

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Log odds that the text of each ``(question, text)`` answers."""


@dataclass(frozen=True, slots=True)
class Extract:
    """A unit of a passage: the place of the passage among those retrieved, from 0, the text, and how near it is to the question (a cosine).

    It ``leads`` when it is the best for a part of a question that asks several things. ``judged`` are the judge's log odds that it answers the
    question, or surely a part of it; None without a judge. ``score`` orders units; ``beside`` is how much less than the best's it may be for a unit
    of the same passage, or of the same ``document`` where that is known, and of another one, to be quoted beside it. ``above`` are the lines that
    lead in a list, with which the text of an item begins; ``section`` is the heading it is quoted under, which is not in the text; ``place`` is where
    it stands among all.
    """

    passage: int
    text: str
    nearness: float = field(default=0.0, compare=False)
    leads: bool = field(default=False, compare=False)
    judged: float | None = field(default=None, compare=False)
    score: float = field(default=0.0, compare=False)
    beside: tuple[float, float] = field(default=(SAME_PASSAGE, OTHER_PASSAGE), compare=False)
    document: str = field(default="", compare=False)
    above: str = field(default="", compare=False)
    section: str = field(default="", compare=False)
    place: int = field(default=0, compare=False)

    @property
    def quoted(self) -> str:
        """As it stands in an answer: below its heading, code as such, with the number of its passage, from 1."""
        return f"{self.heading}\n{self.row}" if self.heading else self.row

    @property
    def heading(self) -> str:
        """Of a row of a table the names of its columns, of an item of a list what leads it in, each below its section; empty for all else."""
        section = self.section + ":" * (self.section[-1:] not in ":?!.…")
        return "\n".join(part for part in (section, self.above or self._names) if any(map(str.isalnum, part)))

    @property
    def listed(self) -> bool:
        """Whether it is quoted below a line that others of its list stand under too."""
        return bool(self.above or self.section)

    @property
    def of_list(self) -> tuple[int, str] | None:
        """Of an item that is quoted below such a line, which list it is of."""
        return (self.passage, self.heading) if self.listed and LIST_MARK.match(self.own) and not STEP.match(self.own) else None

    @property
    def whole(self) -> bool:
        """Whether it is such a list, and no item."""
        return bool(self.of_list) and sum(bool(LIST_MARK.match(line)) for line in self.own.split("\n")) > 1

    @property
    def _names(self) -> str:
        if self.above:
            # Below its caption.
            first, rest = self.above.rpartition("\n")[2], self.text.removeprefix(f"{self.above}\n")
        else:
            first, _, rest = self.text.partition("\n")
        return first if "|" in first and "|" in rest and "\n" not in rest else ""

    @property
    def columns(self) -> frozenset[str]:
        """Of a row of a table, or a record, the names of what stands in it; empty for all else."""
        if self._names:
            return frozenset([self._names])
        cells = [PAIR.match(cell) for cell in re.split(r"[;\n]\s*", self.text.strip())]
        return frozenset(cell[1] for cell in cells if cell) if len(cells) > 1 and all(cells) else frozenset()

    @property
    def own(self) -> str:
        """The text without what it has of :attr:`heading`."""
        return self.text.removeprefix(f"{self.above or self._names}\n")

    @property
    def row(self) -> str:
        """As :attr:`quoted`, without :attr:`heading`."""
        # Behind the mark that closes a block of code it would be read as code.
        between = "\n" if self.own.startswith(("```", "~~~")) else " "
        return f"{self.own if self._names else citations.as_code(self.own)}{between}[{self.passage + 1}]"

    @property
    def apart(self) -> str:
        """As :attr:`row`, but an item by itself without the mark of a list: behind another list it would be taken for an item of that."""
        return self.row if "\n" in self.own else without_list_mark(self.row)

    @property
    def marked(self) -> bool:
        """Whether it is quoted as an item by itself, with the mark of a list."""
        return not self.heading and self.apart != self.row


def shortlist(
    question: str,
    passages: Sequence[tuple[str, str]],
    embed: Callable[[list[str]], NDArray[np.float32]],
    most: int = MOST_CHOICES,
    judge: Judge | None = None,
    parts: Sequence[str] | None = None,
    turn: Turn | None = None,
) -> list[Extract]:
    """The ``most`` units of all passages ``(title, text)`` that answer the question best by ``judge``, or are nearest by ``embed`` (unit vectors).

    A unit is read under its title, which often holds what the sentence only refers to, and, without a judge, alone too; of a long list of steps the
    best part counts. One that says the same as a better one is left out, and a short list that the question asks for stands for its items.
    Of a question that asks several things, ``parts`` (None to find them), the best for each part are always among them. ``question`` may be a
    ``turn`` of a conversation.
    """
    units = [(index, unit) for index, (_, text) in enumerate(passages) for unit in dict.fromkeys(quotable(text))]
    found = [
        Extract(index, unit.text, above=unit.above, section=unit.section(passages[index][0]), place=place)
        for place, (index, unit) in enumerate(units)
    ]
    if not found:
        return []
    titles = [denials.part(title)[0] for title, _ in passages]
    texts = [unit.readings for _, unit in units]
    titled = [[f"{title}: {text}" if (title := titles[index]) else text for text in own] for (index, _), own in zip(units, texts, strict=True)]
    asked = [question, *(divided(question) if parts is None else parts)]
    if judge is None:
        alone, under_title = _near(embed, asked, texts), _near(embed, asked, titled)
        near = (1 - TITLED) * alone + TITLED * under_title
        leading = {int(part.argmax()) for part in near[1:] if part.max() >= PART_NEARNESS}
        found = [replace(unit, nearness=float(cosine), score=float(cosine)) for unit, cosine in zip(found, near[0], strict=True)]
        order = (-near[0]).argsort(kind="stable").tolist()
    else:
        if turn is not None:
            found, leading = _followed(judge, turn, question, found, titled, _near(embed, [*turn, question], titled)), set()
        else:
            found, leading = _judged(judge, asked, found, titled, _near(embed, asked, titled))
        older = {index for index, title in enumerate(titles) if f"{denials.BETWEEN_HEADINGS}{mail.QUOTED}" in title}
        found = [replace(unit, score=unit.score - OLDER) if unit.passage in older else unit for unit in found]
        order = _ranked(found)
    chosen = _chosen([replace(found[at], leads=at in leading) for at in order], most)
    return _listed(turn.message if turn else question, chosen, [unit for unit in found if unit.of_list], [text for _, text in passages])


def _near(embed: Callable[[list[str]], NDArray[np.float32]], asked: Sequence[str], readings: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """``(asked, units)``: the cosine of each of ``asked`` with the nearest of the ``readings`` of each unit."""
    from numpy import add, maximum

    vectors = embed([*asked, *(text for own in readings for text in own)])
    starts = add.accumulate([0, *map(len, readings[:-1])])
    near: NDArray[np.float32] = maximum.reduceat(vectors[: len(asked)] @ vectors[len(asked) :].T, starts, axis=1)
    return near


def _scores(judge: Judge, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[float]:
    """As the judge's, of the best of the readings of each unit."""
    told = iter(judge.scores([(asked, text) for asked, readings in pairs for text in readings]))
    return [max(islice(told, len(readings))) for _, readings in pairs]


def _ranked(found: Sequence[Extract]) -> list[int]:
    """The places of those that the judge has read, best first."""
    return sorted((at for at, unit in enumerate(found) if unit.judged is not None), key=lambda at: -found[at].score)


def divided(question: str) -> list[str]:
    """What a question asks, one by one, where that may be several things; none of one that asks a single thing, or tells a whole story."""
    found: list[tuple[int, int]] = []
    for piece in pieces(question):
        # A comma or a full stop often stands between what happened and what is asked about it.
        if found and not ANOTHER.search(question, found[-1][1], piece.start):
            found[-1] = (found[-1][0], piece.end)
        else:
            found.append((piece.start, piece.end))
    return [question[start:end] for start, end in found] if 1 < len(found) <= MOST_PIECES else []


def _judged(
    judge: Judge, asked: Sequence[str], found: Sequence[Extract], titled: Sequence[Sequence[str]], near: NDArray[np.float32]
) -> tuple[list[Extract], set[int]]:
    """``found`` with what the judge says of the nearest to any of ``asked``, the question and its parts; and the places of the best for each part."""
    weighing = judge.weighing
    nearest = [(-cosines).argsort(kind="stable")[: READ_FOR_PART if at else READ].tolist() for at, cosines in enumerate(near)]
    names, naming = _naming(asked[0], found)
    telling, headed = _telling(asked[0], found), _headed(asked[0], found, titled)
    nearest[0] += sorted((naming | {*telling}) - {*nearest[0]}, key=lambda place: (place not in headed, -near[0, place]))[:READ_FOR_PART]
    read = list(dict.fromkeys(place for places in nearest for place in places))
    out, leading = list(found), set[int]()
    # All at once: two cores then have work of one size.
    of_parts = list(zip(asked[1:], nearest[1:], strict=True))
    wanted = [(text, place) for text, places in ((asked[0], read), *of_parts) for place in places]
    told = dict(zip(wanted, _scores(judge, [(text, titled[place]) for text, place in wanted]), strict=True))
    if max(told[asked[0], place] for place in read) < UNSURE:
        more = [place for place in (-near[0]).argsort(kind="stable")[: READ + READ_MORE].tolist() if place not in read]
        told |= dict(zip(((asked[0], place) for place in more), _scores(judge, [(asked[0], titled[place]) for place in more]), strict=True))
        read += more
    for place in read:
        odds, cosine = told[asked[0], place], float(near[0, place])
        if names and place in naming:
            odds = _told_by_name(names, found[place], odds)
        if place in headed:
            odds = max(odds, TOLD_BY_NAME)
        score = odds + weighing.nearness * cosine + telling.get(place, 0.0)
        out[place] = replace(out[place], nearness=cosine, judged=odds, score=score, beside=(weighing.same, weighing.other))
    highest = max(out[place].score for place in read)
    best = [max(((told[part, place], place) for place in places), key=lambda pair: pair[0]) for part, places in of_parts]
    together = {place for odds, place in best if odds >= TOGETHER_ODDS}
    for odds, place in best:
        sure = odds >= SURE_PART_ODDS or (odds >= TOGETHER_ODDS and len(together) > 1)
        if sure:
            out[place] = replace(out[place], judged=max(odds, out[place].judged or odds))
        if sure or odds - WHOLE_ODDS * (highest - out[place].score) >= PART_ODDS:
            leading.add(place)
    return out, leading


def _naming(message: str, found: Sequence[Extract]) -> tuple[Names | None, set[int]]:
    """What a message names, and the places of the units that have it."""
    names = identifiers.named(message)
    return names, {place for place, unit in enumerate(found) if names.within(unit.text)} if names else set()


def _telling(message: str, found: Sequence[Extract]) -> dict[int, float]:
    """What rows, records and items of lists gain by what of the message stands in them or above them, and not so for all of them."""
    codes = identifiers.telling(message)
    rows = [place for place, unit in enumerate(found) if unit.columns or LIST_MARK.match(unit.own)] if codes else []
    having = [{place for place in rows if identifiers.has(f"{found[place].section} {found[place].above} {found[place].own}", code)} for code in codes]
    apart = [places for places in having if 0 < len(places) < len(rows)]
    return {place: TOLD_APART * sum(place in places for places in apart) / len(apart) for place in set[int]().union(*apart)}


def _headed(message: str, found: Sequence[Extract], titled: Sequence[Sequence[str]]) -> set[int]:
    """The places of what stands under a heading that names all that a message asks for, as "4.1.2 > Fixed", but for what it or its title names."""
    codes, words = identifiers.telling(message), facts.read(message).words - OF_VERSIONS
    if not (codes and words and ASKS_WHAT.search(message)):
        return set()

    def named(section: str, text: str) -> bool:
        return (
            all(identifiers.has(section, code) for code in codes)
            and denials.denies(section) == denials.denies(message)
            and not words.isdisjoint(facts.read(section).words)
            and words <= facts.read(text).words
        )

    return {place for place, unit in enumerate(found) if named(unit.section, titled[place][0])}


def _told_by_name(names: Names, unit: Extract, odds: float) -> float:
    return max(odds, TOLD_BY_NAME) + names.opens(unit.own) if names.alone else odds + NAMED


def _followed(
    judge: Judge, turn: Turn, question: str, found: Sequence[Extract], titled: Sequence[Sequence[str]], near: NDArray[np.float32]
) -> list[Extract]:
    """``found`` with what the judge says of the best for a ``turn``; ``near`` are the cosines with the previous message, this one, and both."""
    weighing = judge.weighing
    before, alone, together = ((weighing.nearness * cosines).tolist() for cosines in near)
    nearest = [(-near[2]).argsort(kind="stable")[:READ_TOGETHER].tolist(), (-near[1]).argsort(kind="stable")[:READ_ALONE].tolist()]
    names, naming = _naming(turn.message, found)
    telling = _telling(turn.message, found)
    nearest.append(sorted(naming | {*telling}, key=lambda place: -near[1, place])[:READ_ALONE])
    read = list(dict.fromkeys(place for places in nearest for place in places))
    told = _scores(judge, [(text, titled[place]) for text in (question, turn.message) for place in read])
    odds = {place: pair for place, *pair in zip(read, told, told[len(read) :], strict=False)}
    if names:
        odds = {place: [_told_by_name(names, found[place], each) for each in pair] if place in naming else pair for place, pair in odds.items()}
    gained = {place: both + together[place] + ALONE * (own + alone[place]) + telling.get(place, 0.0) for place, (both, own) in odds.items()}
    best = sorted(read, key=lambda place: -gained[place])[:COMPARED]
    out = list(found)
    for place, known in zip(best, _scores(judge, [(turn.previous, titled[place]) for place in best]), strict=True):
        score = gained[place] - BEFORE * (known + before[place])
        cosine = float(max(near[1:, place]))
        both, own = odds[place]
        judged = VOUCHED_TOGETHER * both + (1 - VOUCHED_TOGETHER) * own + VOUCHED
        out[place] = replace(out[place], nearness=cosine, judged=judged, score=score, beside=(weighing.same, weighing.other))
    return out


def _chosen(ordered: Sequence[Extract], most: int) -> list[Extract]:
    """The first ``most``, with those that lead in any case, and none that says the same as one before; of two that would be quoted together, of which
    one holds the other, as a row does that says what the next one is of, that one."""
    chosen: list[Extract] = []
    for extract in ordered:
        within = next((at for at, other in enumerate(chosen) if _contains(extract, other) and other.score - extract.score <= other.beside[0]), None)
        if within is not None:
            part = chosen[within]
            chosen[within] = replace(extract, score=part.score, judged=part.judged, nearness=part.nearness, leads=part.leads or extract.leads)
        elif (extract.leads or len(chosen) < most) and not any(_contains(other, extract) or _alike(extract, other) for other in chosen):
            chosen.append(extract)
    others = max(most - sum(extract.leads for extract in chosen), 1)
    spared = [extract for extract in chosen if not extract.leads][:others]
    return [extract for extract in chosen if extract.leads or extract in spared][:most]


def _listed(question: str, chosen: Sequence[Extract], items: Sequence[Extract], texts: Sequence[str]) -> list[Extract]:
    """``chosen`` with a list as a whole in place of its ``items``, where some of them would be all that is quoted, or be quoted below what the
    question asks for: else they would seem to be all."""
    quoted = [chosen[at].of_list for at in (0, *company(chosen, 0))]
    at_hand = quoted[0]
    if at_hand is None or not (quoted.count(at_hand) == MOST_QUOTED or (quoted.count(at_hand) > 1 and _asks_for(question, at_hand[1]))):
        return list(chosen)
    items = [item for item in items if item.of_list == at_hand]
    whole = _whole(texts[at_hand[0]], items[0])
    if len(whole.split()) > MOST_WORDS or STRUCK.search(whole) or not all(item.own in whole for item in items):
        return list(chosen)
    text = f"{items[0].above}\n{whole}" if items[0].above else whole
    others = [extract for extract in chosen[1:] if extract.of_list != at_hand]
    leads = any(extract.leads for extract in chosen if extract.of_list == at_hand)
    return [replace(chosen[0], text=text, leads=leads, place=items[0].place), *others]


def _asks_for(question: str, heading: str) -> bool:
    """Whether a question says all that the last line of a heading does."""
    last = heading.rpartition("\n")[2].rpartition(denials.BETWEEN_HEADINGS)[2]
    words = facts.read(last).words - OF_VERSIONS
    return bool(words) and words <= facts.read(question).words and denials.denies(last) == denials.denies(question)


def _whole(text: str, first: Extract) -> str:
    """The list in ``text`` that begins with an item, without the blank lines in it."""
    lines = text[line_start(text, text.index(first.own)) :].split("\n")
    listed = takewhile(lambda line: not line.strip() or line[0] in " \t" or (LIST_MARK.match(line) and not STEP.match(line)), lines)
    return dedent("\n".join(line.rstrip() for line in listed if line.strip()))


def _contains(whole: Extract, part: Extract) -> bool:
    """Whether the lines of an extract are among those of another one of its passage."""
    return whole.passage == part.passage and whole.section == part.section and f"\n{part.own}\n" in f"\n{whole.own}\n"


def _alike(one: Extract, other: Extract) -> bool:
    """Whether two extracts say the same; what both stand below tells nothing of that."""
    if one.heading and one.heading == other.heading:
        return one.own == other.own or same(facts.read(one.own), facts.read(other.own))
    return same(facts.read(one.text), facts.read(other.text))


def same(one: facts.Facts, other: facts.Facts) -> bool:
    """Whether two units say the same: numbers and negations alike, and nearly all content words."""
    if sorted((n.kind, n.unit) for n in one.numbers) != sorted((n.kind, n.unit) for n in other.numbers):
        return False
    if sorted(n.kind for n in one.negations) != sorted(n.kind for n in other.negations):
        return False
    return len(one.words & other.words) >= SAME_WORDS * max(len(one.words), len(other.words), 1)


def constraints(extracts: Sequence[Extract], lengths: Sequence[int] = (), most: int = 0) -> dict[str, Any]:
    """The fields of :class:`~mdsa_local.domains.config.Generation` that keep an answer to quotations of ``extracts``, or, where no judge has found
    that they answer, the refusal. See :func:`company` for ``lengths`` and ``most``.

    The grammar is for one quotation and those that go with it, each followed by the number of its passage, from 1, and empty when there is nothing
    to quote. Of the choices what an answer begins with, the model's own opinion and the scores decide together.
    """
    judged = bool(extracts) and extracts[0].judged is not None
    begins = dict[str, tuple[str, float]]()
    for i, extract in enumerate(extracts):
        begin, rule = _together(extracts, (i, *company(extracts, i, lengths, most)))
        # Items of one list are quoted in its order: what begins with one that fits better is left to that.
        begins.setdefault(begin, (rule, (NEARNESS_ODDS if extract.judged is None else JUDGED_ODDS) * extract.score))
    choices = tuple((begin, odds) for begin, (_, odds) in begins.items())
    return {"grammar": _grammar(extracts, [rule for rule, _ in begins.values()]), "choices": choices, "refusal": "" if judged else NOT_FOUND}


def _grammar(extracts: Sequence[Extract], roots: Sequence[str]) -> str:
    if not extracts:
        return ""
    rules = [f"{QUOTED}{i} ::= {literal(extract.quoted)}" for i, extract in enumerate(extracts)]
    rules += [f"{ROW}{i} ::= {literal(extract.row)}" for i, extract in enumerate(extracts) if extract.heading]
    rules += [f"{APART}{i} ::= {literal(extract.apart)}" for i, extract in enumerate(extracts) if extract.marked]
    return "\n".join([f"root ::= {' | '.join(roots)}", *rules])


def _together(extracts: Sequence[Extract], chosen: Sequence[int]) -> tuple[str, str]:
    """What a quotation of those ``chosen``, in this order but for items of one list, begins with, and its rule. What two stand below is said once. An
    item with no line before or behind it is written without the mark of a list."""
    chosen = _in_order(extracts, chosen)
    gaps = ["", *(_gap(extracts[before], extracts[at]) for before, at in pairwise(chosen)), ""]
    forms, heading = list[str](), ""
    for at, beside in zip(chosen, pairwise(gaps), strict=True):
        extract = extracts[at]
        said, alone = extract.heading and extract.heading == heading, extract.marked and LINES not in beside
        forms.append(ROW if said else APART if alone else QUOTED)
        heading = extract.heading
    first = extracts[chosen[0]]
    rule = " ".join(f"{gap} {form}{at}" for gap, form, at in zip(gaps, forms, chosen, strict=False)).strip()
    return first.apart if forms[0] == APART else first.quoted, rule


def _in_order(extracts: Sequence[Extract], chosen: Sequence[int]) -> list[int]:
    """``chosen`` with the items of each list together, in the order that it has them."""
    lists = [extracts[at].of_list or at for at in chosen]
    return [at for _, at in sorted(zip(lists, chosen, strict=True), key=lambda pair: (lists.index(pair[0]), extracts[pair[1]].place))]


def _gap(last: Extract, extract: Extract) -> str:
    """What stands between two quotations: rows, items after items, and what has several lines, stand on lines of their own. What follows a list and
    is not of it is set apart: else it would seem to be forbidden too."""
    if (last.listed or extract.listed) and extract.heading != last.heading:
        return r'"\n\n"'
    if "\n" in extract.quoted + last.quoted or (extract.columns and last.columns) or (extract.marked and last.marked):
        return LINES
    return '" "'


def company(extracts: Sequence[Extract], first: int, lengths: Sequence[int] = (), most: int = 0) -> list[int]:
    """Which extracts, nearest first, follow the one chosen to begin with: about as near to the question, so that no choice between them is safe, or
    the nearest to another part of the question; beside a whole list only these. Where their ``lengths`` in tokens are given, no more than surely
    come to ``most`` with it."""
    chosen = extracts[first]
    columns = chosen.columns

    def beside(extract: Extract) -> float:
        at_hand = extract.passage == chosen.passage or bool(extract.document and extract.document == chosen.document)
        return ROW_BESIDE if columns & extract.columns else extract.beside[not at_hand]

    near = [at for at, extract in enumerate(extracts) if extract.leads or (not chosen.whole and extracts[0].score - extract.score <= beside(extract))]
    found = [at for at in sorted(near, key=lambda at: not extracts[at].leads) if at != first][: MOST_QUOTED - 1]
    while lengths and found and SPLIT_UP * (lengths[first] + sum(lengths[at] for at in found)) > most:
        del found[-1]
    return found


def room(extracts: Sequence[Extract], lengths: Sequence[int], n_context: int, most: int) -> int:
    """The tokens that an answer of ``most`` may take where it quotes: what has room in it, and each list of steps, ``lengths`` by the tokenizer, is
    written to its end. Without that it would be no answer. Half of the context stays for the question and what is quoted."""
    together = (sum(lengths[at] for at in (first, *company(extracts, first, lengths, most))) for first in range(len(extracts)))
    steps = (length for extract, length in zip(extracts, lengths, strict=True) if STEP.match(extract.own))
    whole = (*(length for length in together if SPLIT_UP * length <= most), *steps)
    half = n_context // 2
    return max([most, *(min(ceil(SPLIT_MORE * length), half) for length in whole if SPLIT_UP * length <= half)])


def literal(text: str) -> str:
    """``text`` as a GBNF string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'
