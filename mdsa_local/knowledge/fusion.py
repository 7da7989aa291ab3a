"""Ranking what two searches found in one or two tables. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from mdsa_local.types import Passage

# Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods": k = 60.
RRF_K = 60
# Learned on 1,500 MedQuAD questions, apart from those it is measured on: scripts/compare_retrieval.py. From 0.15 to 0.25 little
# changes. The better the encoder, the less: for the one before it was 0.6.
WORDS_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found in one table: its cosine with the question, its rank there by words (1 is best) with its BM25 score, or None and 0 where no
    word matched, and that score from 0 to 1, see :func:`saturated`."""

    passage: Passage
    cosine: float
    lexical_rank: int | None
    metadata: Mapping[str, Any]
    bm25: float = 0.0
    words: float = 0.0


def saturated(bm25: float, n_passages: int) -> float:
    """A BM25 score from 0 to 1, comparable between tables of different size: one half is what a word is worth that a single passage has.

    That is its inverse document frequency, ``ln(1 + (n - 0.5) / 1.5)`` (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework").
    """
    return bm25 / (bm25 + _rarest(n_passages)) if bm25 > 0 else 0.0


@lru_cache(64)
def _rarest(n_passages: int) -> float:
    return math.log(1 + (max(n_passages, 1) - 0.5) / 1.5)


@dataclass(frozen=True, slots=True)
class Reread:
    """What a reranker made of a passage: its ``score``, higher is better, to be compared within one question only; ``fused_rank``, where the
    passage stood before; ``cut``: question and passage together were too long, and the end of the passage was not read."""

    score: float
    fused_rank: int
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """A hit and why it stands where it does: its rank by cosine among all hits, its fused score, the better passage with the same text, and what a
    reranker made of it."""

    hit: Hit
    cosine_rank: int
    score: float
    twin_of: str | None = None
    reread: Reread | None = None


class Scored(Protocol):
    """What is needed to order something, see :class:`Hit`."""

    @property
    def cosine(self) -> float: ...
    @property
    def lexical_rank(self) -> int | None: ...
    @property
    def words(self) -> float: ...


def order(found: Sequence[Scored], words_weight: float | None = WORDS_WEIGHT) -> list[tuple[int, int, float]]:
    """Places in ``found``, best first, each with its rank by cosine and its fused score: ``cosine + words_weight * words``, or, without a weight, by
    reciprocal rank, ``1/(60 + rank by cosine) + 1/(60 + rank by words)``.

    Cosines of two tables can be compared, so that rank is taken over all; the rank by words is each table's own.
    """
    by_cosine = sorted(range(len(found)), key=[one.cosine for one in found].__getitem__, reverse=True)
    placed = []
    for place, i in enumerate(by_cosine, 1):
        one = found[i]
        if words_weight is None:
            score = 1 / (RRF_K + place) + (1 / (RRF_K + one.lexical_rank) if one.lexical_rank else 0.0)
        else:
            score = one.cosine + words_weight * one.words
        placed.append((i, place, score))
    return sorted(placed, key=lambda entry: -entry[2])


class Twins:
    """Passages with the same text, white space and case aside: the one that was seen first is the others' twin. Each is asked for once; those of two
    tables may have one id."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def of(self, passage: Passage) -> str | None:
        """The id of the passage with this text that was seen before."""
        text = " ".join(passage.text.split()).casefold()
        if text in self._first:
            return self._first[text]
        self._first[text] = passage.id
        return None


def rank(hits: Iterable[Hit], words_weight: float | None = WORDS_WEIGHT) -> list[Ranked]:
    """Order hits, best first, see :func:`order`; of passages with the same text the best is the others' ``twin_of``."""
    found, twins = list(hits), Twins()
    return [Ranked(found[i], place, score, twins.of(found[i].passage)) for i, place, score in order(found, words_weight)]


def fuse(hits: Iterable[Hit], words_weight: float | None = WORDS_WEIGHT) -> list[Hit]:
    """The hits in the order of :func:`rank`, without twins."""
    return [ranked.hit for ranked in rank(hits, words_weight) if ranked.twin_of is None]
