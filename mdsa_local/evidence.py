"""What the documents of a domain have to say to a question, and in which domain they say it.

A question is looked up in the domain it was routed to. Where that is undecided, or its documents do not surely answer, other domains are looked into,
those with the nearest documents before the next likeliest: what a user adds to a domain need not resemble its examples. Each is looked into by
itself: a search sees the shared knowledge base and that of one domain. Which one answers, the judge decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdsa_local.domains import quoting
from mdsa_local.domains.quoting import Extract
from mdsa_local.sentences import without_list_mark
from mdsa_local.types import Part, Passage, Route, Turn
from mdsa_local.validation import citations
from mdsa_local.validation.answerable import Doubt, doubt

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.validation.grounding import Embed

# A domain less likely than this is looked into only if its documents are among the nearest.
LEAST_LIKELY = 0.03
# How much greater the odds that another domain's documents answer have to be to take a question from the domain that was chosen.
AHEAD = 1.0
# So many domains are looked into for their documents being nearest.
NEAREST = 2
# The judge chooses among so many times the passages that are wanted.
WIDER = 2
# And among so many more for each part of a question that asks several things.
FOR_PART = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """The passages found in the scope of one domain, the sentences that answer best, best first, and what speaks against an answer."""

    passages: tuple[Passage, ...] = ()
    extracts: tuple[Extract, ...] = ()
    doubt: Doubt | None = None

    @property
    def answering(self) -> tuple[str, ...]:
        """What the judge holds to answer, without what it may be quoted below and the mark of a list; empty without a judge."""
        if self.doubt is None or self.doubt.judged is None or self.doubt.declines:
            return ()
        return tuple(without_list_mark(extract.own) for at, extract in enumerate(self.extracts) if at == 0 or extract.leads)


@dataclass(frozen=True, slots=True)
class Searcher:
    """Looks a question up. ``vector`` is that of ``question``, None to search by words alone; without ``judge`` nearness alone counts; ``quotes``
    tells whether a domain's model does nothing but quote; ``parts`` are what it asks, one by one, where that is several things; ``turn`` what it was
    made of, where it goes on from another."""

    knowledge: DualRAG
    question: str
    vector: Any
    embed: Embed
    judge: quoting.Judge | None
    top_k: int
    quotes: Callable[[str], bool]
    parts: Sequence[str] = ()
    turn: Turn | None = None

    def nearest(self, domains: Iterable[str]) -> tuple[str, ...]:
        """Those of ``domains`` whose documents are nearest to the question, nearest first; none without a ``vector``."""
        return () if self.vector is None else self.knowledge.nearest(self.question, self.vector, domains, NEAREST)

    def look(self, domain: str) -> Evidence:
        """The evidence in the scope of ``domain``: of more passages than wanted those with the best sentences, in that order.

        Without a judge sentences are looked for only where the domain's model ``quotes`` them.
        """
        passages = self._passages(domain)
        if not passages or (self.judge is None and not self.quotes(domain)):
            return Evidence(passages)
        extracts = quoting.shortlist(
            self.question, [(passage.title, passage.text) for passage in passages], self.embed, judge=self.judge, parts=self.parts, turn=self.turn
        )
        if self.judge is not None:
            passages, extracts = narrowed(passages, extracts, self.top_k)
        if self.vector is None:
            return Evidence(passages, tuple(extracts))
        against = doubt(self.question, passages, lambda words: self.knowledge.unknown(words, domain), self.embed, extracts, self.judge, self.turn)
        return Evidence(passages, tuple(extracts), against)

    def _passages(self, domain: str) -> tuple[Passage, ...]:
        """What is found for the question, then what is found for its parts, or for the message alone, only."""
        found = list(self.knowledge.search(self.question, self.vector, domain, self.top_k if self.judge is None else WIDER * self.top_k))
        also = [self.turn.message] if self.turn else list(self.parts)
        parts = [] if self.judge is None or self.vector is None else also
        for part, vector in zip(parts, self.embed(parts) if parts else (), strict=True):
            known = {(passage.knowledge_base, passage.id) for passage in found}
            more = self.knowledge.search(part, vector, domain, FOR_PART)
            found += [passage for passage in more if (passage.knowledge_base, passage.id) not in known]
        return tuple(unmarked(whole(passage)) for passage in found)


def whole(passage: Passage) -> Passage:
    """``passage`` below the row that names its columns, where it goes on with a table: that row is its last heading then, see
    :mod:`mdsa_local.knowledge.chunking`."""
    above, _, names = f" > {passage.title}".partition(" > |")
    if not names.endswith("|"):
        return passage
    columns = f"|{names}"
    rule = "|" + "---|" * (columns.count("|") - columns.count(r"\|") - 1)
    return replace(passage, title=above.removeprefix(" > "), text=f"{columns}\n{rule}\n{passage.text}")


def unmarked(passage: Passage) -> Passage:
    """``passage`` with round brackets where its text has what would be read as the mark of a citation: "port [2]" is not from passage 2."""
    text = passage.text
    # An index in code is none, and stays.
    for mark in citations.marks(text):
        text = f"{text[: mark.start]}({text[mark.start + 1 : mark.end - 1]}){text[mark.end :]}"
    return passage if text == passage.text else replace(passage, text=text)


def narrowed(passages: Sequence[Passage], extracts: Sequence[Extract], most: int) -> tuple[tuple[Passage, ...], list[Extract]]:
    """The ``most`` passages with the best extracts, these first, and the extracts in them, numbered anew and with the document they stand in."""
    leading = [extract.passage for extract in extracts if extract.leads]
    best = list(dict.fromkeys([*(extract.passage for extract in extracts), *range(len(passages))]))
    chosen = list(dict.fromkeys([*best[:1], *leading, *best]))[:most]
    order = sorted(chosen, key=best.index)
    place = {old: new for new, old in enumerate(order)}
    kept = [one for one in extracts if one.passage in place]
    return tuple(passages[at] for at in order), [replace(one, passage=place[one.passage], document=passages[one.passage].source) for one in kept]


def resolved(route: Route, searcher: Searcher) -> tuple[Route, Evidence, dict[str, float], Part | None]:
    """``route`` as the evidence leaves it, that evidence, the odds of each domain looked into, and the part of the question that is answered by
    itself, if one is.

    What belongs elsewhere may hide what a domain answers: where it answers nothing of a question for several domains its part is looked up alone,
    then the other parts are, each in its domain. (Its part alone in any case would bring fewer sentences beside the point, but also lose what two
    documents of one domain say.)
    """
    evidence, odds = Evidence(), dict[str, float]()
    if route.domain is not None or not route.parts:
        chosen = route.domain
        route, evidence, odds = settled(route, searcher.look, lambda: searcher.nearest([name for name in route.scores if name != chosen]))
    declined = evidence.doubt is None or evidence.doubt.declines
    if searcher.judge is None or not declined:
        return route, evidence, odds, None
    part, alone = by_itself(sorted(route.parts, key=lambda part: (part.domain != route.domain, -part.confidence)), searcher)
    if part is None:
        return route, evidence, odds, None
    if part.domain != route.domain:
        why = f"{route.reason}; the documents of {part.domain} answer its part"
        route = replace(route, domain=part.domain, confidence=part.confidence, reason=why)
    return route, alone, odds | ({part.domain: round(alone.doubt.odds, 2)} if alone.doubt else {}), part


def by_itself(parts: Sequence[Part], searcher: Searcher) -> tuple[Part | None, Evidence]:
    """The first of ``parts`` that the documents of its domain surely answer, and what they say."""
    for part in parts:
        found = replace(searcher, question=part.text, vector=searcher.embed([part.text])[0], parts=()).look(part.domain)
        if found.doubt is not None and found.doubt.sure:
            return part, found
    return None, Evidence()


def settled(route: Route, look: Callable[[str], Evidence], nearest: Callable[[], Sequence[str]]) -> tuple[Route, Evidence, dict[str, float]]:
    """``route`` as the evidence leaves it, the evidence of its domain, and the odds of each domain looked into. ``nearest`` tells the domains whose
    documents are nearest to the question.

    A domain that was chosen keeps the question where its documents surely answer, or those of no other do by :data:`AHEAD`. Where none was
    chosen, one whose documents surely answer is. The confidence of such a route is that of the answer.
    """
    found: dict[str, Evidence] = {}
    kept, needed = Evidence(), -math.inf

    def odds() -> dict[str, float]:
        return {name: round(one.doubt.odds, 2) for name, one in found.items() if one.doubt}

    if route.domain is not None:
        kept = found[route.domain] = look(route.domain)
        if kept.passages:
            if kept.doubt is None or kept.doubt.judged is None or kept.doubt.sure:
                return route, kept, odds()
            needed = kept.doubt.odds + AHEAD
    likely = [name for name in sorted(route.scores, key=lambda name: -route.scores[name])[:2] if route.scores[name] >= LEAST_LIKELY]
    for name in dict.fromkeys([*nearest(), *likely]):
        if name in found:
            continue
        found[name] = look(name)
        against = found[name].doubt
        if against is not None and against.sure and against.odds >= needed:
            why = f"{route.reason}; the documents of {name} answer"
            return replace(route, domain=name, confidence=max(route.scores[name], against.probability), reason=why), found[name], odds()
    return route, kept, odds()
