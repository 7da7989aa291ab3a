"""Whether documents speak of what is asked at all, for models too small to notice that they do not.

Three signs count: what the judge says of the sentence that answers best, how near the nearest sentence is to the question, and how much of the
question is in words that no document in scope has, not even by another name. "Can I pay in bitcoin?" is near to every sentence about paying; that
nothing ever mentions bitcoin tells. Without a judge the other two decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdsa_local.domains import quoting
from mdsa_local.types import Passage, Turn
from mdsa_local.validation import facts, identifiers, vocabulary

if TYPE_CHECKING:
    from mdsa_local.validation.grounding import Embed
    from mdsa_local.validation.judge import Weighing

# Without a judge: log odds that documents answer, WEIGHTS of (1, nearness, unsaid), fitted to 190 questions that the shipped documents answer and
# 60 that they do not (tests/data), each kind weighing the same.
WEIGHTS = (-2.602, 5.713, -3.07)
# Below these odds a question is declined.
LEAST_ODDS = -0.5
# A word this near (cosine) to the nearest word of the sentences that the model is shown is another name for it, and is not told as missing.
ALIKE = 0.7
# "What's" asks no more than "what" does, "how many" and "how high" no more than "how", "ok why" no more than "why". Who asks, and of whom, documents
# do not say.
CONTRACTED = re.compile(r"'(?:s|m|re|ve|ll|d)$")
# As they are typed in a hurry; "id" and "wed" are words.
HURRIED = frozenset(
    "whats hows whos whens wheres whys thats theres im ive dont doesnt didnt cant wont isnt arent wasnt couldnt shouldnt wouldnt havent hasnt".split()
)
OF_NOTHING = frozenset(
    "many much high long large big far often old ok okay oh alright yes yeah please thanks hi hello am me mine myself he him his she her hers".split()
)
ASKING = vocabulary.FUNCTION | HURRIED | OF_NOTHING
# These go with anything: that documents lack one, as "shows" in "my dishwasher shows E7", speaks against no answer. They are left in what is asked:
# without them there the WEIGHTS would be others.
LIGHT = frozenset("go goes going went take takes taking took taken show shows showing showed shown get gets getting got gotten instead".split())


@dataclass(frozen=True, slots=True)
class Doubt:
    """What speaks against an answer: ``unsaid``, 0..1, the share of the question's content that the documents have no word for; those words;
    ``nearness``, the cosine of the nearest sentence; ``judged``, the judge's log odds that the best one answers, None without a judge, whose
    ``weighing`` says what each counts; ``another``, what was asked of where the best one tells of another of its kind."""

    nearness: float
    unsaid: float
    missing: tuple[str, ...]
    judged: float | None = None
    weighing: Weighing | None = None
    another: tuple[str, ...] = ()

    @property
    def odds(self) -> float:
        """Log odds that the documents answer."""
        if self.weighing is None or self.judged is None:
            constant, near, away = WEIGHTS
            return constant + near * self.nearness + away * self.unsaid
        constant, judged, near, away = self.weighing.odds
        return constant + judged * self.judged + near * self.nearness + away * self.unsaid

    @property
    def probability(self) -> float:
        """The same as a probability."""
        return 1 / (1 + math.exp(-self.odds))

    @property
    def declines(self) -> bool:
        """Whether the question had better be declined."""
        return bool(self.another) or self.odds < (self.weighing.least if self.weighing else LEAST_ODDS)

    @property
    def sure(self) -> bool:
        """Whether a judge is so sure of an answer that a domain can be chosen by it."""
        return self.weighing is not None and self.odds >= self.weighing.sure and not self.another

    @property
    def reason(self) -> str:
        """In words."""
        if missing := (*self.another, *self.missing):
            return f"the documents say nothing of {', '.join(map(repr, missing))}"
        if self.judged is not None:
            return f"no sentence in the documents seems to answer it ({self.probability:.2f})"
        return f"nothing in the documents is near enough to the question ({self.nearness:.2f})"


def doubt(
    question: str,
    passages: Sequence[Passage],
    unknown: Callable[[list[str]], Collection[str]],
    embed: Embed,
    nearest: Sequence[quoting.Extract] | None = None,
    judge: quoting.Judge | None = None,
    turn: Turn | None = None,
) -> Doubt:
    """How far ``passages`` speak of what is asked. ``unknown`` gives those of some words that no document in scope contains; ``nearest`` is the
    shortlist of the passages, made here when None, by ``judge`` if there is one. Of a ``turn`` only the message asks, and only the best unit may
    answer: others may be what the one before it asked for."""
    if nearest is None:
        nearest = quoting.shortlist(question, [(passage.title, passage.text) for passage in passages], embed, judge=judge)
    if not nearest:
        return Doubt(0.0, 0.0, ())
    asked = turn.message if turn else question
    unsaid, missing = _unsaid(asked, passages, unknown, embed, nearest)
    best = f"{passages[nearest[0].passage].title}: {nearest[0].text}"
    found = identifiers.another(asked, best)
    other = tuple(code for code in found if not any(identifiers.has(f"{passage.title} {passage.text}", code) for passage in passages))
    vouching = nearest[:1] if turn else nearest
    judged = max((extract.judged for extract in vouching if extract.judged is not None), default=None)
    return Doubt(max(extract.nearness for extract in vouching), unsaid, missing, judged, judge.weighing if judge else None, other)


def _unsaid(
    question: str,
    passages: Sequence[Passage],
    unknown: Callable[[list[str]], Collection[str]],
    embed: Embed,
    nearest: Sequence[quoting.Extract],
) -> tuple[float, tuple[str, ...]]:
    """The share of the question that the documents have no word for, and those words."""
    # Beside a name they say nothing: "boiler error F.28" asks for what tells of F.28, by whatever word.
    empty = identifiers.AROUND if identifiers.named(question) else ()
    asked = [word for word in content(question) if word not in empty]
    stems = {vocabulary.stem(word) for passage in passages for word in content(f"{passage.title} {passage.text}")}
    candidates = [word for word in asked if word not in LIGHT and vocabulary.stem(word) not in stems]
    absent = unknown(candidates) if candidates else ()
    strange = [word for word in candidates if word in absent]
    if not strange:
        return 0.0, ()
    told = list(dict.fromkeys(word for extract in nearest for word in content(f"{passages[extract.passage].title} {extract.text}")))
    vectors = embed([*strange, *told])
    closest = (vectors[: len(strange)] @ vectors[len(strange) :].T).max(axis=1, initial=0.0)
    away = [1 - min(float(cosine), 1.0) for cosine in closest]
    missing = tuple(word for word, distance in zip(strange, away, strict=True) if distance > 1 - ALIKE)
    return math.fsum(away) / len(asked), missing


def content(text: str) -> list[str]:
    """The different content words of a text as they stand in it, in lower case."""
    words = (match["word"] for match in facts.PIECE.finditer(facts.fold(text)) if match["word"])
    return [word for word in dict.fromkeys(words) if not word.endswith("n't") and CONTRACTED.sub("", word) not in ASKING]
