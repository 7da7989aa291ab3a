"""Ranking what two searches found in one or two tables. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mdsa_local.types import Passage

# Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods": k = 60.
RRF_K = 60
# Learned on 1,500 MedQuAD questions, apart from those it is measured on: scripts/compare_retrieval.py. From 0.5 to 0.8 little changes.
WORDS_WEIGHT = 0.6


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
    return bm25 / (bm25 + math.log(1 + (max(n_passages, 1) - 0.5) / 1.5)) if bm25 > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A hit and why it stands where it does: its rank by cosine among all hits, its fused score, and the better passage with the same text."""

    hit: Hit
    cosine_rank: int
    score: float
    twin_of: str | None = None


def rank(hits: Iterable[Hit], words_weight: float | None = WORDS_WEIGHT) -> list[Ranked]:
    """Order hits, best first: by ``cosine + words_weight * words``, or, without a weight, by reciprocal rank: ``1/(60 + rank by cosine) + 1/(60 +
    rank by words)``.

    Cosines of two tables can be compared, so that rank is taken over all hits; the rank by words is each table's own. Of passages with the same
    text the best is the others' ``twin_of``.
    """
    by_cosine = sorted(hits, key=lambda hit: -hit.cosine)
    if words_weight is None:
        scores = [1 / (RRF_K + place) + (1 / (RRF_K + hit.lexical_rank) if hit.lexical_rank else 0.0) for place, hit in enumerate(by_cosine, 1)]
    else:
        scores = [hit.cosine + words_weight * hit.words for hit in by_cosine]
    best: dict[str, str] = {}
    ranked = []
    for i in sorted(range(len(by_cosine)), key=lambda i: -scores[i]):
        passage = by_cosine[i].passage
        first = best.setdefault(" ".join(passage.text.split()).casefold(), passage.id)
        ranked.append(Ranked(by_cosine[i], i + 1, scores[i], None if first == passage.id else first))
    return ranked


def fuse(hits: Iterable[Hit], words_weight: float | None = WORDS_WEIGHT) -> list[Hit]:
    """The hits in the order of :func:`rank`, without twins."""
    return [ranked.hit for ranked in rank(hits, words_weight) if ranked.twin_of is None]
